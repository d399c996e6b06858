//! Family F of the attacks: hostile containers, archives and daemons against copies.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use havre_archive::tar::{Entry, Kind, TarWriter};
use rustix::fs::{CWD, RenameFlags};

use crate::Test;
use crate::files::scratch;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("f01 copies against an exchange of links stay inside", f01_exchanged_links),
    ("f02 f03 copies run nothing of the container", f02_f03_traps),
    ("f04 f05 mounts of a copy against exchanged targets stay inside", f04_f05_mount_targets),
    ("f06 archives that write through their links are refused", f06_crafted_archives),
    ("f07 copies of special, endless and sparse files are bounded", f07_special_files),
    ("f01 f02 f03 f06 f07 the same against a container of runc", of_runc),
    ("f08 a hostile daemon writes below the destination only", f08_hostile_daemon),
    ("an idle upload does not keep a container from starting", idle_upload),
    ("a reader that does not read does not keep a container from being removed", idle_reader),
];

/// How often a race is tried.
const ROUNDS: usize = 2_000;

/// A tree outside of everything, and what it looked like.
struct Canary(PathBuf, BTreeMap<PathBuf, (u64, u64, i64, u32)>);

impl Canary {
    fn new(world: &World, client: &Client, name: &str) -> Self {
        let folder = scratch(world, client, name).join("canary");
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("secret"), "host secret").unwrap();
        let look = Self::look(&folder);
        Self(folder, look)
    }

    fn look(folder: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, u32)> {
        let mut found = BTreeMap::new();
        let mut open = vec![folder.to_owned()];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            found.insert(path.clone(), (meta.ino(), meta.len(), meta.mtime_nsec(), meta.mode()));
            if meta.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        found
    }

    #[track_caller]
    fn is_unchanged(&self) {
        assert_eq!(Self::look(&self.0), self.1, "something outside was changed");
    }
}

fn archive(entries: &[(Kind, &str, &str)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (kind, path, link) in entries {
        let entry = Entry {
            kind: *kind,
            path: (*path).into(),
            link: (*link).into(),
            mode: 0o777,
            ..Entry::default()
        };
        let content: &[u8] = if *kind == Kind::File { b"hostile" } else { b"" };
        tar.entry(entry, content).unwrap();
    }
    tar.finish().unwrap()
}

/// A request with a body; status and the answer's body.
fn send(socket: &str, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    // A broken connection is an answer too.
    stream.read_to_end(&mut answer).ok();
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let status = String::from_utf8_lossy(&answer[..end]);
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer[end..].to_vec())
}

fn root_of(client: &Client, name: &str) -> PathBuf {
    let pid = client.run(&["inspect", "-f", "{{.State.Pid}}", name]).exits(0);
    Path::new("/proc").join(pid).join("root")
}

/// Exchanges two names as fast as it can while `work` runs.
fn exchanging(one: &Path, other: &Path, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).ok();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn f01_exchanged_links(world: &World, client: &Client) {
    let canary = Canary::new(world, client, "f01");
    let name = client.sleeper("f01", &[]);
    let root = root_of(client, &name);
    // Inside, the link names a path of the host: followed anywhere but in the root, it would be that.
    fs::create_dir(root.join("real")).unwrap();
    fs::write(root.join("real/secret"), "container").unwrap();
    symlink(&canary.0, root.join("link")).unwrap();
    symlink("../../../../../../../../../..".to_owned() + &canary.0.to_string_lossy(), root.join("up"))
        .unwrap();
    let upload = archive(&[(Kind::File, "planted", ""), (Kind::Fifo, "inner", "")]);
    for other in ["link", "up"] {
        exchanging(&root.join("real"), &root.join(other), || {
            for round in 0..ROUNDS / 4 {
                let path = format!("/containers/{name}/archive?path=/real");
                send(world.socket(), "PUT", &path, &upload);
                let path = format!("/containers/{name}/archive?path=/real/{}", ["secret", ""][round % 2]);
                let (_, answer) = send(world.socket(), "GET", &path, b"");
                assert!(!answer.windows(11).any(|part| part == b"host secret"), "read outside of the root");
            }
        });
    }
    canary.is_unchanged();
    client.remove(&name);
}

fn f02_f03_traps(world: &World, client: &Client) {
    let here = scratch(world, client, "f03");
    let name = client.sleeper("f03", &[]);
    let trap = "mkdir -p /usr/bin /lib64 /lib/x86_64-linux-gnu /etc /in
        for p in unpigz gunzip gzip xz unxz bzip2 zstd unzstd tar; do for d in /bin /usr/bin; do
            [ -e $d/$p ] && [ ! -w $d/$p ] || printf '#!/bin/sh\ntouch /trapped /tmp/trapped\n' >$d/$p.new 2>/dev/null
            mv -f $d/$p.new $d/$p 2>/dev/null; chmod 755 $d/$p 2>/dev/null; done; done
        for l in libnss_files.so.2 libnss_dns.so.2 libc.so.6 ld-linux-x86-64.so.2; do
            echo junk >/lib64/$l; echo junk >/lib/x86_64-linux-gnu/$l; done
        printf 'passwd: trap\nhosts: trap\n' >/etc/nsswitch.conf; true";
    client.run(&["exec", &name, "sh", "-c", trap]).exits(0);
    let plain = archive(&[(Kind::File, "file", "")]);
    fs::write(here.join("plain.tar"), &plain).unwrap();
    let path = format!("/containers/{name}/archive?path=/in");
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        let out = std::process::Command::new(program).arg("-c").arg(here.join("plain.tar")).output();
        let Ok(out) = out else {
            println!("SKIP f03 with {program}: not installed");
            continue;
        };
        let (status, answer) = send(world.socket(), "PUT", &path, &out.stdout);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(status, 200, "{program}: {answer}");
    }
    let (status, _) = send(world.socket(), "GET", &format!("/containers/{name}/archive?path=/etc"), b"");
    assert_eq!(status, 200);
    let root = root_of(client, &name);
    assert!(!root.join("trapped").exists() && !root.join("tmp/trapped").exists(), "a trap was run");
    assert!(
        !Path::new("/trapped").exists() && !Path::new("/tmp/trapped").exists(),
        "a trap was run on the host"
    );
    client.remove(&name);
}

fn f04_f05_mount_targets(world: &World, client: &Client) {
    let canary = Canary::new(world, client, "f04");
    let bound = scratch(world, client, "f04").join("bound");
    fs::create_dir(&bound).unwrap();
    let flag = format!("{}:/mnt/a/target", bound.display());
    let name = client.created("f04", &["-v", &flag], &["true"]);
    client.run(&["start", "-a", &name]).exits(0);
    // The folders of a stopped container change under a copy, as a volume's could that others write.
    let upper = client.run(&["inspect", "-f", "{{.Id}}", &name]).exits(0);
    let upper = world.folder().join("data/snapshots/containers").join(upper).join("fs/mnt");
    symlink(&canary.0, upper.join("evil")).unwrap();
    symlink("/", upper.join("root")).unwrap();
    let upload = archive(&[(Kind::File, "planted", "")]);
    for other in ["evil", "root"] {
        exchanging(&upper.join("a"), &upper.join(other), || {
            // Two ways, two targets: as many copies as rounds are asked for.
            for _ in 0..ROUNDS / 4 {
                let path = format!("/containers/{name}/archive?path=/mnt/a/target");
                send(world.socket(), "PUT", &path, &upload);
                send(world.socket(), "GET", &path, b"");
            }
        });
    }
    canary.is_unchanged();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/mnt/a/target"), "a mount stayed on the host");
    client.remove(&name);
}

/// Archives that try to leave the folder they are unpacked in, by every way that names and links have.
fn crafted() -> Vec<Vec<(Kind, String, String)>> {
    let mut all = Vec::new();
    let outs = ["/canary", "../../../../../../canary", "..", "/", "a/../../..", "./../.."];
    for out in outs {
        let entry = |kind, path: &str, link: &str| (kind, path.to_owned(), link.to_owned());
        all.push(vec![entry(Kind::File, &format!("{out}/x"), "")]);
        all.push(vec![entry(Kind::Directory, &format!("{out}/x/"), "")]);
        all.push(vec![entry(Kind::Symlink, "s", out), entry(Kind::File, "s/x", "")]);
        all.push(vec![entry(Kind::Symlink, "s", out), entry(Kind::Directory, "s/x", "")]);
        all.push(vec![entry(Kind::Symlink, "d/s", out), entry(Kind::File, "d/./s//x", "")]);
        all.push(vec![
            entry(Kind::Symlink, "s", out),
            entry(Kind::Symlink, "t", "s"),
            entry(Kind::File, "t/x", ""),
        ]);
        all.push(vec![entry(Kind::Symlink, "s", out), entry(Kind::HardLink, "h", "s/secret")]);
        all.push(vec![entry(Kind::HardLink, "h", &format!("{out}/secret")), entry(Kind::File, "h", "")]);
        all.push(vec![
            entry(Kind::Symlink, "s", out),
            entry(Kind::HardLink, "h", "s"),
            entry(Kind::File, "h/x", ""),
        ]);
        all.push(vec![entry(Kind::Symlink, "s", out), entry(Kind::Fifo, "s/pipe", "")]);
    }
    all
}

fn f06_crafted_archives(world: &World, client: &Client) {
    let canary = Canary::new(world, client, "f06");
    let name = client.sleeper("f06", &[]);
    let corpus = crafted();
    assert!(corpus.len() >= 60);
    let at = canary.0.to_string_lossy().into_owned();
    for entries in &corpus {
        client.run(&["exec", &name, "sh", "-c", "rm -rf /in; mkdir /in"]).exits(0);
        let through_own_link = entries.len() > 1
            && entries
                .iter()
                .any(|(_, path, link)| path.contains("/x") || path.contains("pipe") || link.contains("s/"));
        let entries: Vec<(Kind, String, String)> = entries
            .iter()
            .map(|(kind, path, link)| (*kind, path.replace("/canary", &at), link.replace("/canary", &at)))
            .collect();
        let entries: Vec<_> = entries.iter().map(|(kind, path, link)| (*kind, &**path, &**link)).collect();
        let (status, _) =
            send(world.socket(), "PUT", &format!("/containers/{name}/archive?path=/in"), &archive(&entries));
        assert!(!through_own_link || status >= 400, "{entries:?} was taken: {status}");
        canary.is_unchanged();
    }
    client.remove(&name);
}

fn of_runc(world: &World, client: &Client) {
    if !client.run(&["info", "--format", "{{json .Runtimes}}"]).exits(0).contains("\"runc\"") {
        println!("SKIP f01 f02 f03 f06 f07 under runc: the engine does not have it (apt-get install runc)");
        return;
    }
    let mut client = client.clone();
    client.runtime = Some("runc");
    for part in [f01_exchanged_links, f02_f03_traps, f06_crafted_archives, f07_special_files] {
        part(world, &client);
    }
}

fn f07_special_files(world: &World, client: &Client) {
    let name = client.sleeper("f07", &["--cap-add", "MKNOD", "--cap-add", "SYSLOG"]);
    let script = "mkdir /s; mkfifo /s/pipe; mknod /s/zero c 1 5; ln -s /dev/zero /s/link; echo x >/s/file;
        dd if=/dev/zero of=/s/sparse bs=1 count=1 seek=1099511627775 2>/dev/null;
        (while true; do echo more; done >/s/grows) & sleep 0.1";
    client.run(&["exec", "-d", &name, "sh", "-c", script]).exits(0);
    let root = root_of(client, &name);
    while fs::metadata(root.join("s/grows")).map_or(0, |meta| meta.len()) < 100_000 {
        std::thread::yield_now();
    }
    let started = Instant::now();
    for path in
        ["/s/pipe", "/s/zero", "/s/link", "/s/sparse", "/s/grows", "/proc/kmsg", "/proc/1/mem", "/dev/zero"]
    {
        let (status, answer) =
            send(world.socket(), "GET", &format!("/containers/{name}/archive?path={path}"), b"");
        assert_eq!(status, 200, "{path}");
        assert!(answer.len() >= 1024, "{path}: {} bytes", answer.len());
        if path != "/s/grows" {
            assert!(answer.len() < 64 << 10, "{path}: {} bytes", answer.len());
        }
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    // The hole comes out as one, for tar and for our own command.
    let here = scratch(world, client, "f07");
    client.run_in(&here, &["cp", &format!("{name}:/s/sparse"), "sparse"]).exits(0);
    let meta = fs::metadata(here.join("sparse")).unwrap();
    assert!(meta.len() == 1 << 40 && meta.blocks() < 1_000, "{} {}", meta.len(), meta.blocks());
    // And goes in as one, also where it stops.
    client.run_in(&here, &["cp", "sparse", &format!("{name}:/again")]).exits(0);
    let meta = fs::metadata(root.join("again")).unwrap();
    assert!(meta.len() == 1 << 40 && meta.blocks() < 1_000);
    fs::remove_file(here.join("sparse")).unwrap();
    let pipe = fs::symlink_metadata(root.join("s/pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    client.remove(&name);
}

/// Answers every question with a folder, and the archive with whatever it has.
fn false_daemon(listener: &UnixListener, archive: &[u8], name: &str) {
    let stat = format!(
        "{{\"name\":\"{name}\",\"size\":0,\"mode\":2147484141,\"mtime\":\"2020-01-01T00:00:00Z\",\"linkTarget\":\"\"}}"
    );
    let stat = base64(stat.as_bytes());
    let Ok((stream, _)) = listener.accept() else { return };
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut line = first.clone();
        while line.trim() != "" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        let body: &[u8] = if first.starts_with("GET") && first.contains("/archive") { archive } else { b"" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nX-Docker-Container-Path-Stat: {stat}\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let byte = |at: usize| u32::from(piece.get(at).copied().unwrap_or(0));
        let word = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for at in 0..4 {
            let letter = LETTERS[((word >> (18 - 6 * at)) & 63) as usize];
            text.push(if at <= piece.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn f08_hostile_daemon(world: &World, client: &Client) {
    let canary = Canary::new(world, client, "f08");
    let here = scratch(world, client, "f08");
    let at = canary.0.to_string_lossy().into_owned();
    let socket = here.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut corpus: Vec<Vec<(Kind, String, String)>> = Vec::new();
    for entries in crafted() {
        corpus.push(entries.clone());
        // The same under the name that was asked for, and as that name itself.
        corpus.push(
            entries.iter().map(|(kind, path, link)| (*kind, format!("d/{path}"), link.clone())).collect(),
        );
        corpus.push(
            entries
                .into_iter()
                .map(|(kind, path, link)| {
                    (kind, path.strip_prefix('s').map_or(path.clone(), |rest| format!("d{rest}")), link)
                })
                .collect(),
        );
    }
    for entries in &corpus {
        let target = here.join("target");
        fs::create_dir(&target).unwrap();
        let entries: Vec<(Kind, String, String)> = entries
            .iter()
            .map(|(kind, path, link)| (*kind, path.replace("/canary", &at), link.replace("/canary", &at)))
            .collect();
        let entries: Vec<_> = entries.iter().map(|(kind, path, link)| (*kind, &**path, &**link)).collect();
        let tar = archive(&entries);
        let before: Vec<_> = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| false_daemon(&listener, &tar, "d"));
            let mut command = client.command(&["cp", "c:/d", "target"]);
            command.env("DOCKER_HOST", format!("unix://{}", socket.display())).current_dir(&here);
            // Whether it is refused or not, nothing outside may have changed.
            command.output().expect("the client runs");
        });
        canary.is_unchanged();
        let after: Vec<_> = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(after.len(), before.len(), "{entries:?} made something beside the destination");
        for made in fs::read_dir(&target).unwrap() {
            assert_eq!(made.unwrap().file_name(), "d", "{entries:?}");
        }
        fs::remove_dir_all(&target).unwrap();
    }
}

fn idle_upload(world: &World, client: &Client) {
    let name = client.created("idle", &[], &["sleep", "1000"]);
    let mut upload = UnixStream::connect(world.socket()).unwrap();
    let head = format!(
        "PUT /containers/{name}/archive?path=/ HTTP/1.1\r\nHost: engine\r\nContent-Length: 1000000\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).unwrap();
    upload.write_all(&archive(&[(Kind::File, "one", "")])[..512]).unwrap();
    // The start waits for the upload, but not for ever.
    client.run(&["start", &name]).exits(0);
    assert_eq!(client.run(&["exec", &name, "echo", "runs"]).exits(0), "runs");
    let mut answer = String::new();
    BufReader::new(&mut upload).read_line(&mut answer).unwrap();
    assert!(answer.contains("400") || answer.contains("500"), "{answer}");
    client.remove(&name);
}

fn idle_reader(world: &World, client: &Client) {
    let name = client.sleeper("reader", &[]);
    client.run(&["exec", &name, "sh", "-c", "head -c 50000000 /dev/zero >/large"]).exits(0);
    let mut reader = UnixStream::connect(world.socket()).unwrap();
    let head = format!("GET /containers/{name}/archive?path=/large HTTP/1.1\r\nHost: engine\r\n\r\n");
    reader.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 512];
    reader.read_exact(&mut first).unwrap();
    client.remove(&name);
    // What is cut short does not look whole: the last chunk of the body is missing.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).ok();
    let end = String::from_utf8_lossy(&rest[rest.len().saturating_sub(20)..]).into_owned();
    assert!(rest.len() < 50_000_000 && !rest.ends_with(b"0\r\n\r\n"), "{} {end:?}", rest.len());
}
