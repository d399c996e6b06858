//! A start that failed, explained: from the runtime's words and from what the program's file is. Pure.

use super::program::{Kind, Seen, processor, runs_here};
use super::{Cause, Verdict};
use crate::record::Fixed;
use crate::spec::MountKind;

/// What every error of the runtime begins with.
const RUNTIME: &str = "failed to create task for container: ";

pub(super) fn verdict(fixed: &Fixed, message: &str, code: i32, seen: Option<Seen>) -> Verdict {
    let said = message.strip_prefix(RUNTIME).unwrap_or(message);
    let program = code == 126 || code == 127 || said.contains("exec format error");
    let verdict = match seen {
        Some(seen) if program => of_program(&seen, code),
        _ if program => Verdict::new(
            if code == 127 { Cause::ProgramMissing } else { Cause::NotExecutable },
            "Its program could not be executed.",
        )
        .unproven()
        .fact("Its files could not be looked at."),
        _ => of_setup(fixed, said),
    };
    verdict.fact(format!("The start failed with: {message}"))
}

fn of_program(seen: &Seen, code: i32) -> Verdict {
    let name = &seen.name;
    let Some(file) = &seen.file else {
        let place = if name.contains('/') { "at that path" } else { "in any folder of its PATH" };
        return Verdict::new(
            Cause::ProgramMissing,
            format!("The program {name:?} does not exist in the container."),
        )
        .fact(format!("There is no file {place}."))
        .advise("Check the spelling of the command and of the image's entry point, or install the program in the image.");
    };
    let path = &file.path;
    match &file.kind {
        Kind::Folder => {
            return Verdict::new(Cause::NotExecutable, format!("{path} is a folder, not a program."))
                .advise("Name the program in it.");
        }
        Kind::Special => {
            return Verdict::new(Cause::NotExecutable, format!("{path} is not a regular file."));
        }
        Kind::Elf { .. } | Kind::Script { .. } | Kind::Empty | Kind::Other => {}
    }
    let (user, group) = file.owner;
    let rights = format!("{path} has mode {:04o} and belongs to {user}:{group}.", file.mode);
    if file.mode & 0o111 == 0 {
        return Verdict::new(
            Cause::NotExecutable,
            format!("{path} may not be executed: it has no execute bit."),
        )
        .fact(rights)
        .advise(format!("Make it executable: chmod +x {path}, in the image or before it is mounted."));
    }
    match &file.kind {
        Kind::Script { interpreter, carriage_return: true, .. } => {
            let clean = interpreter.trim_end_matches('\r');
            Verdict::new(
                Cause::InterpreterMissing,
                format!("The script {path} has Windows line ends, so the kernel looks for an interpreter {interpreter:?}."),
            )
            .fact(format!("Its first line is #!{clean} followed by a carriage return."))
            .advise(format!("Convert it to Unix line ends: sed -i 's/\\r$//' {path}"))
        }
        Kind::Script { interpreter, found: false, .. } => Verdict::new(
            Cause::InterpreterMissing,
            format!("The script {path} needs the interpreter {interpreter}, which is not in the container."),
        )
        .fact(format!("Its first line is #!{interpreter} and there is no such file; the kernel says \"no such file or directory\" of the script."))
        .advise(format!("Install {interpreter} in the image, or change the first line to one that is there, such as #!/bin/sh.")),
        Kind::Elf { machine, .. } if !runs_here(*machine) => Verdict::new(
            Cause::WrongArchitecture,
            format!(
                "{path} is a program for {}, and this machine is {}.",
                processor(*machine),
                havre_oci::Platform::host().architecture
            ),
        )
        .fact(format!("Its ELF header has machine number {machine}."))
        .advise("Use an image or a build for this machine's architecture."),
        Kind::Elf { loader: Some((loader, false)), .. } => Verdict::new(
            Cause::LoaderMissing,
            format!("{path} needs the dynamic loader {loader}, which is not in the container."),
        )
        .fact(format!("Its ELF header names {loader} as interpreter and there is no such file; the kernel says \"no such file or directory\" of the program."))
        .advise("Link the program statically, or use an image with the C library it was built for (glibc and musl differ)."),
        Kind::Empty | Kind::Other if code != 127 => Verdict::new(
            Cause::NotAProgram,
            match file.kind {
                Kind::Empty => format!("{path} is an empty file."),
                _ => format!("{path} is neither an ELF program nor a script with #! in its first line."),
            },
        )
        .advise("For a script, make its first line name the interpreter, such as #!/bin/sh."),
        _ if code == 126 => {
            Verdict::new(Cause::NotExecutable, format!("{path} may not be executed by the container's user."))
                .unproven()
                .fact(rights)
                .advise("Check the owner and mode of the file and of the folders above it, and that its mount is not noexec.")
        }
        _ => Verdict::new(Cause::ProgramMissing, format!("{path} could not be found when it was started."))
            .unproven()
            .fact("It is there now, with what it needs."),
    }
}

fn of_setup(fixed: &Fixed, said: &str) -> Verdict {
    if said.starts_with("chdir to cwd (") {
        let folder = &fixed.merged.working_dir;
        return Verdict::new(
            Cause::WorkingDirectory,
            format!("The working directory {folder} cannot be entered."),
        )
        .advise("Make it a folder that the container's user may enter, or choose another with --workdir.");
    }
    if said.starts_with("unable to find user ") || said.starts_with("unable to find group ") {
        let user = &fixed.merged.user;
        let groups = &fixed.spec.group_add;
        let what = match said.starts_with("unable to find user ") {
            true => format!("The user of {user:?} does not exist in the container's /etc/passwd."),
            false => format!(
                "A group of {:?} does not exist in the container's /etc/group.",
                std::iter::once(user).chain(groups).filter(|text| !text.is_empty()).collect::<Vec<_>>()
            ),
        };
        return Verdict::new(Cause::UserMissing, what)
            .advise("Create it in the image, or give a number: --user 1000:1000");
    }
    if said.starts_with("invalid mount config for type \"bind\": bind source path does not exist: ") {
        let gone = fixed.spec.mounts.iter().find_map(|mount| match &mount.kind {
            MountKind::Bind { source, .. } if std::fs::symlink_metadata(source).is_err() => {
                Some((source, &mount.target))
            }
            _ => None,
        });
        return match gone {
            Some((source, target)) => Verdict::new(
                Cause::MountSourceMissing,
                format!("{} of the host, to be mounted at {target}, does not exist.", source.display()),
            ),
            None => {
                Verdict::new(Cause::MountSourceMissing, "What should be mounted did not exist on the host.")
                    .fact("It is there now.")
            }
        }
        .advise("Create it on the host; -v creates a missing folder, --mount does not.");
    }
    Verdict::new(Cause::StartFailed, format!("It could not be started: {said}"))
}

#[cfg(test)]
mod tests {
    use super::super::program::File;
    use super::*;

    fn seen(kind: Kind, mode: u32) -> Seen {
        let file = File { path: "/app".into(), mode, owner: (0, 0), kind };
        Seen { name: "/app".into(), file: Some(file) }
    }

    #[test]
    fn what_the_file_is_decides() {
        let script =
            |found, carriage_return| Kind::Script { interpreter: "/bin/bash".into(), found, carriage_return };
        let foreign = if std::env::consts::ARCH == "aarch64" { 62 } else { 183 };
        let own = if std::env::consts::ARCH == "aarch64" { 183 } else { 62 };
        for (kind, mode, code, cause, proven) in [
            (Kind::Folder, 0o755, 126, Cause::NotExecutable, true),
            (Kind::Other, 0o644, 126, Cause::NotExecutable, true),
            (Kind::Other, 0o755, 126, Cause::NotAProgram, true),
            (Kind::Empty, 0o755, 126, Cause::NotAProgram, true),
            (script(false, false), 0o755, 127, Cause::InterpreterMissing, true),
            (script(false, true), 0o755, 127, Cause::InterpreterMissing, true),
            (script(true, false), 0o755, 127, Cause::ProgramMissing, false),
            (Kind::Elf { machine: foreign, loader: None }, 0o755, 126, Cause::WrongArchitecture, true),
            (
                Kind::Elf { machine: own, loader: Some(("/lib/ld.so".into(), false)) },
                0o755,
                127,
                Cause::LoaderMissing,
                true,
            ),
            (Kind::Elf { machine: own, loader: None }, 0o700, 126, Cause::NotExecutable, false),
        ] {
            let verdict = of_program(&seen(kind.clone(), mode), code);
            assert_eq!((verdict.cause, verdict.proven), (cause, proven), "{kind:?}");
        }
        let missing = of_program(&Seen { name: "nope".into(), file: None }, 127);
        assert_eq!((missing.cause, missing.proven), (Cause::ProgramMissing, true));
    }
}
