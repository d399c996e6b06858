//! The exit codes that stand for a process that could not be started.

use havre_runtime::shim::protocol::FailureKind;

use crate::EngineError;

/// 127 for a missing command, 126 for one that cannot be executed, 128 for anything else, as Docker's.
pub(crate) fn exit_code_of(error: &EngineError) -> i32 {
    match error {
        EngineError::Start { kind, .. } | EngineError::Exec { kind, .. } => match kind {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable => 126,
            FailureKind::Invalid | FailureKind::Internal | FailureKind::Gone => 128,
        },
        _ => 128,
    }
}
