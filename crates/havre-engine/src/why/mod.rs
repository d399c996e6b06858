//! Why a container ended or did not start: the recorded proof in words, and what to do.
//!
//! Invariants: a verdict is proven when nothing else explains the record, and says so when it is not; the
//! record itself is the supervisor's and the engine's (`havre-runtime`'s evidence, [`crate::record`]); files are
//! looked at when asked, inside the container's root, a bounded part of each.

mod death;
mod failed;
mod program;
mod words;

use std::sync::Arc;

use havre_runtime::shim::protocol::Exit;

use crate::record::View;
use crate::state::State;
use crate::{Engine, EngineError};

/// Which request a signal was for, as the supervisor keeps it with the exit.
pub(crate) mod asker {
    pub(crate) const STOP: &str = "stop";
    pub(crate) const RESTART: &str = "restart";
    pub(crate) const KILL: &str = "kill";
    pub(crate) const REMOVE: &str = "remove";
    /// The time that a stop or a restart gave was over.
    pub(crate) const GRACE_OVER: &str = "grace";
}

/// The kinds of causes, by the words that programs may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was never started.
    NeverStarted,
    /// It runs.
    Running,
    /// It exited by itself.
    Exited,
    /// It ended because the engine was asked to end it.
    Stopped,
    /// The kernel killed for a memory limit.
    OutOfMemory,
    /// A signal that the engine did not send.
    Signal,
    /// A fault of the program itself.
    Fault,
    /// A seccomp filter.
    Seccomp,
    /// Its supervisor was killed.
    SupervisorKilled,
    /// The machine went down.
    MachineDown,
    /// The program does not exist.
    ProgramMissing,
    /// The interpreter of a script does not exist.
    InterpreterMissing,
    /// The dynamic loader of a program does not exist.
    LoaderMissing,
    /// A shared library does not exist.
    LibraryMissing,
    /// The program may not be executed.
    NotExecutable,
    /// The program is for other processors.
    WrongArchitecture,
    /// The file is no program.
    NotAProgram,
    /// The working directory cannot be entered.
    WorkingDirectory,
    /// The user or group does not exist.
    UserMissing,
    /// What should be mounted does not exist.
    MountSourceMissing,
    /// The start failed otherwise.
    StartFailed,
    /// Not recorded.
    Unknown,
}

impl Cause {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NeverStarted => "never-started",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Stopped => "stopped",
            Self::OutOfMemory => "out-of-memory",
            Self::Signal => "signal",
            Self::Fault => "fault",
            Self::Seccomp => "seccomp",
            Self::SupervisorKilled => "supervisor-killed",
            Self::MachineDown => "machine-down",
            Self::ProgramMissing => "program-missing",
            Self::InterpreterMissing => "interpreter-missing",
            Self::LoaderMissing => "loader-missing",
            Self::LibraryMissing => "library-missing",
            Self::NotExecutable => "not-executable",
            Self::WrongArchitecture => "wrong-architecture",
            Self::NotAProgram => "not-a-program",
            Self::WorkingDirectory => "working-directory",
            Self::UserMissing => "user-missing",
            Self::MountSourceMissing => "mount-source-missing",
            Self::StartFailed => "start-failed",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The kind.
    pub cause: Cause,
    /// Nothing else explains the record.
    pub proven: bool,
    /// One sentence.
    pub summary: String,
    /// What it rests on, and what else happened.
    pub facts: Vec<String>,
    /// What to do.
    pub advice: Vec<String>,
}

impl Verdict {
    fn new(cause: Cause, summary: impl Into<String>) -> Self {
        Self { cause, proven: true, summary: summary.into(), facts: Vec::new(), advice: Vec::new() }
    }

    fn unproven(mut self) -> Self {
        self.proven = false;
        self
    }

    fn fact(mut self, text: impl Into<String>) -> Self {
        self.facts.push(text.into());
        self
    }

    fn advise(mut self, text: impl Into<String>) -> Self {
        self.advice.push(text.into());
        self
    }
}

/// The answer to "why".
#[derive(Debug, Clone)]
pub struct Why {
    /// The container.
    pub view: Arc<View>,
    /// Its present state explained.
    pub verdict: Verdict,
    /// Its last end, and the record of it.
    pub death: Option<(Verdict, Exit)>,
}

impl Engine {
    /// Why a container is as it is.
    pub async fn why(&self, container: &str) -> Result<Why, EngineError> {
        let view = self.containers.view(container)?;
        let mut death = view
            .now
            .state
            .exit()
            .or(view.now.last_exit.as_ref())
            .map(|exit| (death::verdict(&view.fixed, exit), exit.clone()));
        if let Some((verdict, exit)) = &mut death
            && let Some(better) = self.library_missing(&view, exit).await
        {
            *verdict = better;
        }
        let verdict = match (&view.now.start_error, &view.now.state, &death) {
            (Some((message, code)), ..) => {
                let seen = self.look_at_program(&view).await;
                failed::verdict(&view.fixed, message, *code, seen)
            }
            (None, State::Running { since, .. }, _) => running(&view, &format!("It runs since {since}.")),
            (None, State::Paused { since, .. }, _) => {
                running(&view, &format!("It is paused; it was started at {since}."))
            }
            (None, State::Restarting(_), Some((verdict, _))) => verdict.clone().fact(format!(
                "Its restart policy will start it again; it has done so {} times.",
                view.now.restart_count
            )),
            (None, _, Some((verdict, _))) => verdict.clone(),
            (None, ..) => Verdict::new(Cause::NeverStarted, "It was created and never started.")
                .advise(format!("Start it: havre start {}", view.now.name)),
        };
        Ok(Why { view, verdict, death })
    }

    async fn look_at_program(&self, view: &View) -> Option<program::Seen> {
        let fixed = Arc::clone(&view.fixed);
        let look = move |root: &havre_sys::path::Root<'_>| program::look(root, &fixed);
        self.files.look(view.id().as_str(), look).await.ok()
    }

    /// A program that exited with 127 because of its loader: the loader's last words, and the library that is
    /// indeed not there.
    async fn library_missing(&self, view: &View, exit: &Exit) -> Option<Verdict> {
        if exit.code != 127 || view.fixed.spec.log.none {
            return None;
        }
        let path = self.containers.log_path(view);
        let said = tokio::task::spawn_blocking(move || words::last(&path)).await.ok()?;
        let (line, library) =
            said.iter().rev().find_map(|line| Some((line, words::missing_library(line)?)))?;
        let (name, fixed) = (library.to_owned(), Arc::clone(&view.fixed));
        let look = move |root: &havre_sys::path::Root<'_>| program::lacks(root, &fixed, &name);
        let missing = self.files.look(view.id().as_str(), look).await.unwrap_or(false);
        let verdict = Verdict::new(
            Cause::LibraryMissing,
            format!("The shared library {library} is missing, so the program could not be loaded."),
        )
        .fact(format!("The loader's last words in its log: {line}"))
        .fact("It exited with code 127, as the loader does.")
        .advise("Install the package that holds the library in the image, or link the program statically.");
        Some(if missing { verdict } else { verdict.unproven() })
    }
}

fn running(view: &View, text: &str) -> Verdict {
    let verdict = Verdict::new(Cause::Running, text);
    match view.now.restart_count {
        0 => verdict,
        1 => verdict.fact("Its restart policy started it again once."),
        count => verdict.fact(format!("Its restart policy started it again {count} times.")),
    }
}
