//! `/containers/{id}/why`: ours, not Docker's.

use havre_api::why::{WhyCall, WhyDeath, WhyLimits, WhyResponse, WhySignal, WhyVictim};
use havre_base::Timestamp;
use havre_engine::{Ending, Exit, Verdict, signal};

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;

pub(crate) async fn why(server: &Server, id: &str) -> Result<Answer, Refusal> {
    let why = server.engine.why(id).await?;
    let (view, verdict) = (why.view, why.verdict);
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    Ok(body::json(&WhyResponse {
        id: view.id().to_string(),
        name: view.now.name.to_string(),
        state: view.now.state.word().to_owned(),
        cause: verdict.cause.word().to_owned(),
        proven: verdict.proven,
        summary: verdict.summary,
        facts: verdict.facts,
        advice: verdict.advice,
        started_at: time(view.now.started_at),
        restart_count: view.now.restart_count,
        start_error: view.now.start_error.as_ref().map(|(text, _)| text.clone()).unwrap_or_default(),
        start_failed_at: match view.now.start_error {
            Some(_) => time(view.now.start_failed_at),
            None => String::new(),
        },
        death: why.death.map(|(verdict, exit)| death(verdict, exit)),
    }))
}

fn death(verdict: Verdict, exit: Exit) -> WhyDeath {
    let evidence = *exit.evidence;
    let (ending, number) = match evidence.ending {
        Ending::Unknown => ("unknown", None),
        Ending::Exited => ("exited", None),
        Ending::Signalled(number) => ("signalled", Some(number)),
        Ending::SupervisorLost => ("supervisor-lost", None),
        Ending::MachineDown => ("machine-down", None),
    };
    WhyDeath {
        cause: verdict.cause.word().to_owned(),
        proven: verdict.proven,
        summary: verdict.summary,
        facts: verdict.facts,
        advice: verdict.advice,
        at: exit.at.to_string(),
        exit_code: exit.code,
        ending: ending.to_owned(),
        signal: number.map(signal::name).unwrap_or_default(),
        pid: evidence.pid,
        signals_sent: evidence
            .signals
            .into_iter()
            .map(|sent| WhySignal {
                signal: signal::name(sent.signal),
                at: sent.at.to_string(),
                request: sent.by,
            })
            .collect(),
        limits: evidence.limits.map(|limits| WhyLimits {
            cgroup: limits.group,
            memory: limits.memory_limit,
            memory_peak: limits.memory_peak,
            memory_hits: limits.memory_hits,
            oom_kills: limits.oom_kills,
            pids: limits.pids_limit,
            pids_refused: limits.pids_refused,
            cpu_periods: limits.cpu_periods,
            cpu_throttled: limits.cpu_throttled,
            cpu_throttled_nanos: limits.cpu_throttled_nanos,
        }),
        victims: evidence
            .victims
            .into_iter()
            .map(|victim| WhyVictim { pid: victim.pid, name: victim.name, cgroup: victim.group })
            .collect(),
        system_call: evidence
            .refused
            .map(|call| WhyCall { architecture: call.architecture, number: call.number }),
    }
}
