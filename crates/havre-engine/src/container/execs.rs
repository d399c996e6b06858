//! Clients and execs: what is handed to the shim, and what it answers.

use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use havre_base::ExecId;
use havre_runtime::shim::protocol::{Answer, Ask, ExecConfig, Failure, FailureKind, Target};
use tokio::sync::oneshot;

use super::{Attachment, Container, ENDED_EXECS, ExecView, Pending, Reply, SUPERVISOR_LOST, answer};
use crate::EngineError;
use crate::error_text::exit_code_of;
use crate::spec::ExecSpec;
use crate::state::State;

impl Container {
    pub(super) async fn attach(&mut self, attachment: Attachment, reply: Reply<()>) {
        match self.now.state {
            State::Running { .. } | State::Paused { .. } => {
                let (spec, fd) = attachment;
                self.happened("attach", &[]);
                let ask = Ask::Attach { target: Target::Init, spec };
                self.ask(ask, vec![fd], Pending::Plain(reply)).await;
            }
            State::Created | State::Exited(_) | State::Restarting(_) => {
                let (sender, receiver) = oneshot::channel();
                sender.send(attachment).map(drop).unwrap_or(());
                self.waiting.push(receiver);
                answer(reply, Ok(()));
            }
            State::Removing => {
                answer(reply, Err(EngineError::State("container is marked for removal".into())));
            }
        }
    }

    pub(super) fn exec_create(&mut self, spec: ExecSpec) -> Result<ExecId, EngineError> {
        let id = &self.fixed.id;
        match self.now.state {
            State::Running { .. } => {}
            State::Paused { .. } => {
                let text = format!("container {id} is paused, unpause the container before exec");
                return Err(EngineError::State(text));
            }
            State::Restarting(_) => {
                let text = format!("container {id} is restarting, wait until the container is running");
                return Err(EngineError::State(text));
            }
            State::Created | State::Exited(_) | State::Removing => {
                return Err(EngineError::State(format!("container {id} is not running")));
            }
        }
        let exec = ExecId::random();
        self.happened(&format!("exec_create: {}", spec.command.join(" ")), &[("execID", exec.to_string())]);
        self.execs.insert(exec.clone(), ExecView { spec, running: false, pid: 0, exit_code: None });
        self.launcher.remember_exec(&exec, &self.fixed.id);
        self.publish();
        Ok(exec)
    }

    pub(super) async fn exec_start(
        &mut self,
        id: ExecId,
        attachment: Option<Attachment>,
        console: (u16, u16),
        reply: Reply<()>,
    ) {
        let Some(exec) = self.execs.get_mut(&id) else {
            return answer(reply, Err(EngineError::NoExec(id.to_string())));
        };
        if exec.running || exec.exit_code.is_some() {
            let text = format!("exec command {id} has already run");
            return answer(reply, Err(EngineError::State(text)));
        }
        let planned = self.launcher.plan_exec(&self.fixed, &exec.spec);
        let (process, filter) = match planned {
            Ok(planned) => planned,
            Err(error) => return answer(reply, Err(error)),
        };
        exec.running = true;
        let asked = if console == (0, 0) { exec.spec.console } else { console };
        let user = if exec.spec.user.is_empty() { &self.fixed.merged.user } else { &exec.spec.user };
        let config = ExecConfig {
            id: id.clone(),
            process,
            user: user.clone(),
            additional_groups: self.fixed.spec.group_add.clone(),
            open_stdin: exec.spec.attach_stdin && attachment.is_some(),
            console: asked,
        };
        let command = exec.spec.command.join(" ");
        self.happened(&format!("exec_start: {command}"), &[("execID", id.to_string())]);
        let (attach, client) = attachment.map_or((None, None), |(spec, fd)| (Some(spec), Some(fd)));
        let ask = Ask::Exec { exec: Box::new(config), attach, filter: filter.is_some() };
        let fds = client.into_iter().chain(filter).collect();
        self.ask(ask, fds, Pending::Exec(id, reply)).await;
    }

    pub(super) fn exec_ended(&mut self, id: &ExecId, code: i32) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        exec.running = false;
        exec.exit_code = Some(code);
        self.ended_execs.push_back(id.clone());
        if self.ended_execs.len() > ENDED_EXECS
            && let Some(oldest) = self.ended_execs.pop_front()
        {
            self.execs.remove(&oldest);
            self.launcher.forget_exec(&oldest);
        }
        self.happened("exec_die", &[("execID", id.to_string()), ("exitCode", code.to_string())]);
        self.publish();
    }

    pub(super) fn on_answer(&mut self, seq: u64, given: Answer) {
        match (self.pending.remove(&seq), given) {
            (Some(Pending::Plain(reply)), Answer::Failed(failure)) => {
                answer(reply, Err(self.refused(failure)));
            }
            (Some(Pending::Plain(reply)), _) => answer(reply, Ok(())),
            (Some(Pending::Exec(id, reply)), Answer::ExecStarted { pid }) => {
                if let Some(exec) = self.execs.get_mut(&id) {
                    exec.pid = pid;
                }
                self.publish();
                answer(reply, Ok(()));
            }
            (Some(Pending::Exec(id, reply)), Answer::Failed(failure)) => {
                let error = EngineError::Exec { kind: failure.kind, message: failure.message };
                self.exec_ended(&id, exit_code_of(&error));
                answer(reply, Err(error));
            }
            (Some(Pending::Exec(_, reply)), Answer::Done | Answer::Status(_) | Answer::Kept) => {
                answer(reply, Ok(()))
            }
            (None, _) => {}
        }
    }

    pub(super) fn refused(&self, failure: Failure) -> EngineError {
        match failure.kind {
            FailureKind::Gone => EngineError::State(format!("container {} is not running", self.fixed.id)),
            FailureKind::Invalid | FailureKind::NotFound | FailureKind::NotExecutable => {
                EngineError::Invalid(failure.message)
            }
            FailureKind::Internal => EngineError::State(failure.message),
        }
    }

    pub(super) async fn ask(&mut self, ask: Ask, fds: Vec<OwnedFd>, pending: Pending) {
        let sent = match &mut self.link {
            _ if !self.now.state.is_alive() => {
                Err(EngineError::State(format!("container {} is not running", self.fixed.id)))
            }
            None => Err(EngineError::State(format!("container {} is not running", self.fixed.id))),
            Some(link) => {
                let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
                link.send(ask, &borrowed).await.map_err(|_| EngineError::Shim(self.fixed.id.clone()))
            }
        };
        match sent {
            Ok(seq) => {
                self.pending.insert(seq, pending);
            }
            Err(error) => {
                let reply = match pending {
                    Pending::Plain(reply) => reply,
                    Pending::Exec(id, reply) => {
                        self.exec_ended(&id, SUPERVISOR_LOST);
                        reply
                    }
                };
                answer(reply, Err(error));
            }
        }
    }

    pub(super) async fn ask_quietly(&mut self, ask: Ask, fds: Vec<OwnedFd>) {
        let (reply, _unread) = oneshot::channel();
        self.ask(ask, fds, Pending::Plain(reply)).await;
    }
}
