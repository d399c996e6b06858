//! The one binary of Havre. It chooses a role before any thread exists, because namespaces are
//! entered from a single thread.

mod hello;

use std::ffi::OsString;
use std::process::ExitCode;

/// What this process is to be.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// The command line; also under the name `docker`.
    Cli(Vec<OsString>),
    /// The engine; `true` under the name `dockerd`, with its flags and its socket.
    Daemon(Vec<OsString>, bool),
    /// The supervisor of one container.
    Shim,
    /// Process 1 of a container with `--init`, under the name `havre-init`.
    Init(Vec<OsString>),
    /// An OCI runtime's command line; also under the name `havre-oci`.
    Oci(Vec<OsString>),
    /// The program of the embedded image.
    Hello,
}

impl Role {
    /// Decides by the name of the program, then by the first word.
    fn from_args(mut args: Vec<OsString>) -> Self {
        let name = args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match name.rsplit('/').next().unwrap_or_default() {
            "docker" => return Self::Cli(args),
            "dockerd" => return Self::Daemon(args.split_off(1), true),
            "hello" => return Self::Hello,
            // Engines want a runtime to be one program.
            "havre-oci" => return Self::Oci(args.split_off(1)),
            havre_runtime::init::NAME => return Self::Init(args.split_off(1)),
            _ => {}
        }
        let word = args.get(1).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        match word.as_str() {
            "daemon" => Self::Daemon(args.split_off(2), false),
            "shim" => Self::Shim,
            "init" => Self::Init(args.split_off(2)),
            "oci" => Self::Oci(args.split_off(2)),
            "hello" => Self::Hello,
            _ => Self::Cli(args),
        }
    }
}

fn main() -> ExitCode {
    match Role::from_args(std::env::args_os().collect()) {
        Role::Cli(args) => havre_cli::main(args),
        Role::Daemon(args, called_as_dockerd) => daemon(args, called_as_dockerd),
        Role::Shim => havre_runtime::shim::main(),
        Role::Init(args) => havre_runtime::init::main(args),
        Role::Oci(args) => havre_runtime::oci::main(args),
        Role::Hello => hello::main(),
    }
}

/// Starts the engine. Its options are text; what is not is shown as such in the refusal.
fn daemon(args: Vec<OsString>, called_as_dockerd: bool) -> ExitCode {
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    havre_daemon::main(&args, called_as_dockerd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(line: &str) -> Role {
        Role::from_args(line.split(' ').map(OsString::from).collect())
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_name_decides_before_the_first_word() {
        assert_eq!(role("/usr/bin/docker daemon"), Role::Cli(words("/usr/bin/docker daemon")));
        assert_eq!(role("dockerd -D --init"), Role::Daemon(words("-D --init"), true));
        assert_eq!(role("/hello"), Role::Hello);
        assert_eq!(role("/proc/self/exe daemon -D"), Role::Daemon(words("-D"), false));
        assert_eq!(role("havre oci state x"), Role::Oci(words("state x")));
        assert_eq!(role("/opt/havre-oci state x"), Role::Oci(words("state x")));
        assert_eq!(role("havre shim"), Role::Shim);
        assert_eq!(role("havre run hello"), Role::Cli(words("havre run hello")));
        assert_eq!(role("havre"), Role::Cli(words("havre")));
    }
}
