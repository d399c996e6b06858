//! Restart policies: whether and when a container that ended is started again. Pure.

use std::time::Duration;

use crate::spec::RestartPolicy;

/// The first delay; it doubles with each failure in a row.
const FIRST: Duration = Duration::from_millis(100);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(60);
/// A run this long counts as good: the next delay is the first again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// How a run ended, as far as a policy cares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Exit status.
    pub(crate) code: i32,
    /// How long it ran.
    pub(crate) ran: Duration,
    /// A user asked for the end.
    pub(crate) by_user: bool,
    /// Restarts so far since a user started it.
    pub(crate) restarts: u32,
}

/// The delay before the next start, or none for no start. `last` is the delay before the run that ended.
pub(crate) fn after_exit(policy: RestartPolicy, ended: Ended, last: Option<Duration>) -> Option<Duration> {
    let again = !ended.by_user
        && match policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure { max } => ended.code != 0 && (max == 0 || ended.restarts < max),
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        };
    again.then(|| match last {
        Some(last) if ended.ran < GOOD_RUN => (last * 2).min(LONGEST),
        _ => FIRST,
    })
}

/// Whether a container that is not running is started when the daemon starts. `by_user`: a user
/// stopped it; `was_running`: it ran when the daemon or the machine went down.
pub(crate) fn at_daemon_start(policy: RestartPolicy, by_user: bool, was_running: bool) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure { .. } => was_running && !by_user,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !by_user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, restarts: u32) -> Ended {
        Ended { code, ran: Duration::ZERO, by_user: false, restarts }
    }

    #[test]
    fn policies_decide_by_code_count_and_user() {
        use RestartPolicy as P;
        let max = P::OnFailure { max: 2 };
        for (policy, end, again) in [
            (P::No, ended(1, 0), false),
            (max, ended(0, 0), false),
            (max, ended(1, 1), true),
            (max, ended(1, 2), false),
            (P::OnFailure { max: 0 }, ended(1, 999), true),
            (P::Always, ended(0, 999), true),
            (P::Always, Ended { by_user: true, ..ended(0, 0) }, false),
            (P::UnlessStopped, ended(0, 0), true),
        ] {
            assert_eq!(after_exit(policy, end, None).is_some(), again, "{policy:?} {end:?}");
        }
    }

    #[test]
    fn delays_double_to_a_minute_and_start_over_after_a_good_run() {
        let mut last = None;
        let delays: Vec<_> = (0..12)
            .map(|_| {
                last = after_exit(RestartPolicy::Always, ended(1, 0), last);
                last.unwrap().as_millis()
            })
            .collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 60_000);
        let good = Ended { ran: Duration::from_secs(11), ..ended(1, 0) };
        assert_eq!(after_exit(RestartPolicy::Always, good, last), Some(FIRST));
    }

    #[test]
    fn a_daemon_start_respects_who_stopped_it() {
        use RestartPolicy as P;
        assert!(at_daemon_start(P::Always, true, false));
        assert!(!at_daemon_start(P::UnlessStopped, true, false));
        assert!(at_daemon_start(P::UnlessStopped, false, true));
        assert!(!at_daemon_start(P::OnFailure { max: 0 }, false, false));
        assert!(!at_daemon_start(P::No, false, true));
    }
}
