//! A client on a terminal of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::world::Client;

/// How long a terminal may stay silent before a test fails.
const PATIENCE: i64 = 20;

/// How long a program may take to end.
const END: Duration = Duration::from_secs(30);

/// A program and the master of its terminal.
pub(crate) struct Terminal {
    master: File,
    /// Kept open, so that the terminal's settings can be read after the program ended.
    slave: File,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Runs a client's command line on a terminal of 40 rows and 100 columns.
    pub(crate) fn run(client: &Client, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("a terminal").into_string().expect("a name");
        let slave = OpenOptions::new().read(true).write(true).open(name).expect("the other side");
        resize(&slave, 40, 100);
        let handle = || Stdio::from(slave.try_clone().expect("a handle"));
        // Who started the tests may have made signals of the terminal be ignored, which is inherited.
        let mut command = Command::new("env");
        command.args(["--default-signal", "setsid", "--ctty", "--wait"]).arg(client.program()).args(args);
        client.environment(&mut command);
        let child = command.stdin(handle()).stdout(handle()).stderr(handle()).spawn().expect("setsid runs");
        Self { master: master.into(), slave, child, seen: String::new() }
    }

    /// Types.
    pub(crate) fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Changes the window's size.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        resize(&self.slave, rows, columns);
    }

    /// Reads until a text appears.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(self.read(), "no {text:?} on the terminal, but: {:?}", self.seen);
        }
    }

    /// Waits for the end; the terminal must be as it was. Returns the exit code.
    #[track_caller]
    pub(crate) fn end(self) -> i32 {
        self.last_words().1
    }

    /// The same, and all that was said and not yet expected.
    #[track_caller]
    pub(crate) fn last_words(mut self) -> (String, i32) {
        let start = Instant::now();
        let code = loop {
            assert!(start.elapsed() < END, "no end, but: {:?}", self.seen);
            match self.child.try_wait().expect("the child can be waited for") {
                Some(status) => break status.code().unwrap_or(-1),
                None => {
                    // The program's last words, or a short silence.
                    self.read_for(0, 20_000_000);
                }
            }
        };
        let settings = tcgetattr(&self.slave).expect("the settings");
        let cooked = settings
            .local_modes
            .contains(rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO);
        assert!(cooked, "the terminal was left raw");
        // What is still in the terminal is there at once.
        while self.read_for(0, 0) {}
        (std::mem::take(&mut self.seen), code)
    }

    fn read(&mut self) -> bool {
        self.read_for(PATIENCE, 0)
    }

    fn read_for(&mut self, tv_sec: i64, tv_nsec: i64) -> bool {
        let mut ready = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        let wait = Timespec { tv_sec, tv_nsec };
        if poll(&mut ready, Some(&wait)).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
                true
            }
            _ => false,
        }
    }
}

fn resize(slave: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(slave, size).expect("a size");
}
