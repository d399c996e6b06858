//! A file system that never answers, in a container and in front of one.
//!
//! The server of the file system is a thread of this test that speaks the kernel's FUSE protocol as far as it
//! must (fuse(4), linux/fuse.h): it answers everything but reads, then nothing at all, and then it ends.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::Test;
use crate::private::Private;
use crate::world::{Client, Outcome, World};

pub(crate) const ALL: &[Test] =
    &[("r28_a file system that never answers holds up nobody else", never_answers)];

/// Operations, as linux/fuse.h numbers them.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// "Function not implemented", as an answer carries it.
const NO_SUCH_CALL: i32 = -38;

/// A mounted file system with one file.
struct Silent {
    path: PathBuf,
    deaf: Arc<AtomicBool>,
    /// Names that are still looked up before it is deaf.
    lookups: Arc<AtomicU32>,
    reads: Receiver<()>,
    server: Option<JoinHandle<()>>,
}

impl Silent {
    fn mount(folder: &Path, name: &str) -> Option<Self> {
        let mut device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let path = folder.join(name);
        std::fs::create_dir(&path).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("silent", &path, "fuse", MountFlags::NODEV, options.as_c_str()).ok()?;
        let deaf = Arc::new(AtomicBool::new(false));
        let lookups = Arc::new(AtomicU32::new(u32::MAX));
        let (told, reads) = channel();
        let (ear, left) = (Arc::clone(&deaf), Arc::clone(&lookups));
        let server = std::thread::spawn(move || {
            let mut request = vec![0; 1 << 20];
            // An error is the end of the mount.
            while let Ok(length) = device.read(&mut request) {
                let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
                let operation = word(4);
                if operation == READ {
                    told.send(()).ok();
                }
                if operation == LOOKUP && left.fetch_sub(1, Ordering::Relaxed) == 0 {
                    ear.store(true, Ordering::Relaxed);
                }
                if ear.load(Ordering::Relaxed) || [READ, FORGET, BATCH_FORGET, INTERRUPT].contains(&operation)
                {
                    continue;
                }
                let node = u64::from_ne_bytes(request[16..24].try_into().unwrap());
                let answer = answer(operation, node, &request[40..length]);
                let (error, body) = answer.map_or((NO_SUCH_CALL, Vec::new()), |body| (0, body));
                let mut reply = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
                reply.extend(error.to_ne_bytes());
                reply.extend(&request[8..16]);
                reply.extend(body);
                device.write_all(&reply).ok();
            }
        });
        Some(Self { path, deaf, lookups, reads, server: Some(server) })
    }

    /// Ends the file system: whoever waits for it gets an error.
    fn end(&mut self) {
        let Some(server) = self.server.take() else { return };
        // Forced, because somebody waits for an answer; a second time, lazily, because that only ends the wait.
        for flags in [UnmountFlags::FORCE | UnmountFlags::DETACH, UnmountFlags::DETACH] {
            rustix::mount::unmount(&self.path, flags).ok();
        }
        server.join().unwrap();
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.end();
    }
}

/// The body of an answer; none for what this file system does not know.
fn answer(operation: u32, node: u64, body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match operation {
        INIT => {
            // Version 7.31, its read-ahead, nothing beyond.
            out.extend(7_u32.to_ne_bytes());
            out.extend(31_u32.to_ne_bytes());
            out.extend(&body[8..12]);
            out.resize(20, 0);
            out.extend(4096_u32.to_ne_bytes());
            out.resize(64, 0);
        }
        GETATTR => {
            // Valid for no time, so that each look asks again.
            out.resize(16, 0);
            out.extend(attributes(node));
        }
        LOOKUP if body.starts_with(b"file") => {
            out.extend(2_u64.to_ne_bytes());
            out.resize(40, 0);
            out.extend(attributes(2));
        }
        OPEN => out.resize(16, 0),
        _ => return None,
    }
    Some(out)
}

/// Node 1 is the folder, node 2 the file.
fn attributes(node: u64) -> Vec<u8> {
    let mut out = node.to_ne_bytes().to_vec();
    out.extend(4096_u64.to_ne_bytes());
    out.resize(60, 0);
    let (mode, links) = if node == 1 { (0o040_755_u32, 2_u32) } else { (0o100_644, 1) };
    out.extend(mode.to_ne_bytes());
    out.extend(links.to_ne_bytes());
    out.resize(88, 0);
    out
}

/// Asks the daemon what clients ask all the time.
fn others(daemon: &Private, client: &Client, name: &str) {
    for path in ["/_ping", "/containers/json?all=1", "/info", &format!("/containers/{name}/json")] {
        assert_eq!(daemon.ask(&format!("GET {path} HTTP/1.1")).0, 200, "{path}");
    }
    let run = ["run", "--rm", "--network", "none", "busybox", "echo", "here"];
    assert_eq!(daemon.run(client, &run).exits(0), "here");
    daemon.run(client, &["top", name]).exits(0);
}

/// Does the work beside others' commands, which must not have to wait for its end.
fn beside<T: Send>((daemon, client, name): (&Private, &Client, &str), work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        for _ in 0..10 {
            others(daemon, client, name);
        }
        assert!(!worker.is_finished(), "it was over before anybody else could be held up");
        worker.join().unwrap()
    })
}

fn run_on(daemon: &Private, client: &Client, folder: &Path, name: &str, rest: &[&str]) -> Outcome {
    let volume = format!("{}:/m", folder.display());
    let first = ["run", "-d", "--network", "none", "--name", name, "-v", &volume];
    daemon.run(client, &[&first[..], rest].concat())
}

/// A container that waits for the file system, and starts on it when it is deaf.
fn held_up_by_none(daemon: &Private, client: &Client, silent: &Silent) {
    let folder = &silent.path;
    let start = |name: &str, rest: &[&str]| run_on(daemon, client, folder, name, rest);
    start("waits", &["busybox", "cat", "/m/file"]).exits(0);
    silent.reads.recv_timeout(Duration::from_secs(30)).expect("the container reads");
    let world = (daemon, client, "waits");
    let (removed, stopped) = beside(world, || {
        std::thread::scope(|scope| {
            let stop = scope.spawn(|| daemon.run(client, &["stop", "-t", "0", "waits"]));
            (daemon.run(client, &["rm", "-f", "waits"]), stop.join().unwrap())
        })
    });
    removed.fails(1, "removal of container waits is pending");
    stopped.fails(1, "did not receive an exit event");
    let list = ["ps", "-a", "--filter", "name=waits", "--format", "{{.Names}} {{.State}}"];
    let listed = daemon.run(client, &list).exits(0);
    assert_eq!(listed, "waits running");

    // Now it does not even say what its folder is.
    silent.deaf.store(true, Ordering::Relaxed);
    let refused = beside(world, || start("late", &["busybox", "true"]));
    refused.fails(125, "does not answer within 20 seconds");
    start("later", &["busybox", "true"]).fails(125, "does not answer within 20 seconds");
}

fn never_answers(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let Some(mut silent) = Silent::mount(daemon.folder.path(), "silent") else {
        println!("SKIP r28: the kernel has no FUSE for us");
        return;
    };
    // One that answers the daemon's look and not the supervisor's.
    let sudden = Silent::mount(daemon.folder.path(), "sudden").expect("a second one");
    sudden.lookups.store(1, Ordering::Relaxed);
    let file = format!("{}/file:/x", sudden.path.display());
    let sudden_start = ["run", "-d", "--network", "none", "--name", "sudden", "-v", &file, "busybox", "true"];
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| daemon.run(client, &sudden_start));
        held_up_by_none(&daemon, client, &silent);
        stuck.join().unwrap().fails(125, "does not answer");
    });
    // Its supervisor cannot end, and nobody waits for that.
    daemon.run(client, &["rm", "sudden"]).exits(0);

    // A daemon with a thread that cannot be killed does not keep the next one from its place.
    daemon.replace(&["-H", "SOCKET"]);
    others(&daemon, client, "waits");
    daemon.run(client, &["rm", "late", "later"]).exits(0);
    let pending = std::thread::scope(|scope| {
        let remove = scope.spawn(|| daemon.run(client, &["rm", "-f", "waits"]));
        // Whether it is still waiting or was told to: when the file system is gone, the container goes.
        let (status, _) = daemon.ask("GET /_ping HTTP/1.1");
        assert_eq!(status, 200);
        silent.end();
        remove.join().unwrap()
    });
    pending.exits(0);
    assert_eq!(daemon.run(client, &["ps", "-aq"]).exits(0), "");
    assert_eq!(daemon.end().code(), Some(0));
}
