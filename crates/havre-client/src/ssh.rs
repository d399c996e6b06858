//! A daemon on another machine: `ssh` runs a program there that copies its standard streams to the socket.
//!
//! The connection is one socket pair, which is both standard input and standard output of `ssh`, so that it
//! is an ordinary stream here and the end of our half is the end of its input.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::endpoint::Remote;

/// How much of what ssh says is kept.
const WORDS: u64 = 16 * 1024;
/// How long a broken connection waits for ssh to say why.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running ssh.
pub(crate) struct Ssh {
    line: String,
    /// How it ended and what it said, once it has.
    ended: mpsc::Receiver<(String, String)>,
}

impl Remote {
    /// The command line, without `ssh` itself. `program` is what we are called: under Docker's name the
    /// remote program is Docker's; under ours it is ours where it is there, else Docker's.
    fn arguments(&self, program: &str) -> Vec<String> {
        let mut arguments = vec!["-o".to_owned(), "ConnectTimeout=30".into(), "-T".into()];
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        arguments.extend(["--".to_owned(), self.host.clone()]);
        let dial = |program: &str| match &self.socket {
            Some(path) => format!("{program} --host {} system dial-stdio", quoted(&format!("unix://{path}"))),
            None => format!("{program} system dial-stdio"),
        };
        if program == "docker" {
            arguments.push(dial("docker"));
        } else {
            arguments.push(format!(
                "command -v {program} >/dev/null 2>&1 && exec {} || exec {}",
                dial(program),
                dial("docker")
            ));
        }
        arguments
    }

    /// Starts ssh and returns our end of its standard streams.
    pub(crate) fn connect(&self, program: &str) -> io::Result<(UnixStream, Ssh)> {
        let arguments = self.arguments(program);
        let (ours, theirs) = UnixStream::pair()?;
        let input = OwnedFd::from(theirs.try_clone()?);
        let mut child = Command::new("ssh")
            .args(&arguments)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    io::Error::other("exec: \"ssh\": executable file not found in $PATH")
                }
                _ => error,
            })?;
        let words = child.stderr.take();
        let (tell, ended) = mpsc::channel();
        // Ends with ssh, which ends with the connection. It reaps the child.
        std::thread::Builder::new().name("ssh".into()).spawn(move || {
            let mut said = Vec::new();
            if let Some(words) = words {
                let mut words = words;
                words.by_ref().take(WORDS).read_to_end(&mut said).unwrap_or(0);
                io::copy(&mut words, &mut io::sink()).unwrap_or(0);
            }
            let status = match child.wait() {
                Ok(status) => match status.code() {
                    Some(code) => format!("exit status {code}"),
                    None => status.to_string(),
                },
                Err(error) => error.to_string(),
            };
            // Nobody asks when all went well.
            tell.send((status, String::from_utf8_lossy(&said).into_owned())).unwrap_or(());
        })?;
        let line = format!("ssh {}", arguments.join(" "));
        Ok((ours, Ssh { line, ended }))
    }
}

impl Ssh {
    /// Why the connection broke, if ssh ended by itself.
    pub(crate) fn reason(&self) -> Option<String> {
        let (status, said) = self.ended.recv_timeout(PATIENCE).ok()?;
        Some(format!(
            "command [{}] has exited with {status}, make sure the URL is valid, and Havre, or Docker 18.09 or later, is installed on the remote host: stderr={}",
            self.line,
            said.trim_end()
        ))
    }
}

/// A word as the shell of the other machine reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        Remote { user: Some("me".into()), host: "h".into(), port: Some(22), socket: None }
    }

    #[test]
    fn the_command_line_is_dockers_under_dockers_name() {
        assert_eq!(
            remote().arguments("docker"),
            ["-o", "ConnectTimeout=30", "-T", "-l", "me", "-p", "22", "--", "h", "docker system dial-stdio"]
        );
    }

    #[test]
    fn what_the_user_types_is_one_word_there() {
        let hostile = Remote { socket: Some("/x'; rm -rf /".into()), ..remote() };
        assert_eq!(
            hostile.arguments("docker").last().unwrap(),
            "docker --host 'unix:///x'\\''; rm -rf /' system dial-stdio"
        );
        assert!(remote().arguments("havre").last().unwrap().ends_with("|| exec docker system dial-stdio"));
    }
}
