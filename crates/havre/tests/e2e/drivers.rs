//! Every storage driver, held to the same: containers run, are copied to and from, compared, committed, removed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Test;
use crate::private::{Private, fails};
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("drivers: overlay2 mounts layers", overlay),
    ("drivers: vfs copies", vfs),
    ("drivers: btrfs makes snapshots", btrfs),
    ("drivers: erofs mounts archives", erofs),
    ("drivers: what cannot be is refused in words", refused),
    ("watermarks keep the disk from being full of what nobody named", watermarks),
    ("a full disk is told with its biggest consumers and leaves nothing", full),
];

/// A small file system of its own in a file.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new(program: &str, megabytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Self { folder };
        let image = disk.folder.path().join("disk");
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        std::fs::create_dir(disk.path()).unwrap();
        let run = |program: &str, args: &[&Path]| {
            let output = Command::new(program).args(args).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !run(program, &[&image]) || !run("mount", &[Path::new("-oloop"), &image, &disk.path()]) {
            println!("SKIP a file system of its own: {program} or a loop device is not there");
            return None;
        }
        Some(disk)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.path()).output().ok();
    }
}

fn overlay(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let status = held(&daemon, client, "overlay2", &daemon.path("data"));
    assert!(status.contains("[Supports d_type true]") && status.contains("[Backing Filesystem "), "{status}");
    let data = daemon.run(client, &["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "kept"]).exits(0);
    assert!(Path::new(&data).is_dir(), "{data}");
}

fn vfs(_: &World, client: &Client) {
    let mut daemon = Private::start(r#"{"storage-driver":"vfs"}"#, &["-H", "SOCKET"]);
    let root = daemon.path("data");
    assert_eq!(held(&daemon, client, "vfs", &root), "[]");
    // What is recorded counts, also for who asks for nothing; another driver is refused.
    std::fs::write(daemon.path("daemon.json"), "{}").unwrap();
    daemon.replace(&["-H", "SOCKET"]);
    assert_eq!(daemon.run(client, &["info", "-f", "{{.Driver}}"]).exits(0), "vfs");
    assert_eq!(daemon.run(client, &["start", "-a", "kept"]).exits(0), "kept");
    daemon.run(client, &["rm", "kept"]).exits(0);
    daemon.end();
    let line = Private::line(daemon.folder.path(), &["-H", "SOCKET", "-s", "overlay2"]);
    let told = Command::new(crate::private::havre()).args(line).output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("belongs to the storage driver \"vfs\", not \"overlay2\""), "{told}");
}

fn btrfs(_: &World, client: &Client) {
    let Some(disk) = Disk::new("mkfs.btrfs", 512) else { return };
    let root = disk.path().join("data").display().to_string();
    let daemon = Private::start("{}", &["-H", "SOCKET", "--data-root", &root, "--storage-driver", "btrfs"]);
    assert_eq!(held(&daemon, client, "btrfs", &root), "[[Btrfs ]]");
    let container = daemon.run(client, &["inspect", "-f", "{{.Id}}", "kept"]).exits(0);
    let subvolume = Path::new(&root).join("snapshots/containers").join(container).join("fs");
    assert_eq!(subvolume.metadata().unwrap().ino(), 256, "the root of a subvolume");
    daemon.run(client, &["rm", "kept"]).exits(0);
    drop(daemon);
}

fn erofs(_: &World, client: &Client) {
    if !havre_testkit::mounts_erofs() {
        return;
    }
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let mut daemon = Private::start("{}", &["-H", "SOCKET", "-s", "erofs"]);
    let root = daemon.path("data");
    let status = held(&daemon, client, "erofs", &root);
    assert!(status.contains("[Status experimental]"), "{status}");
    let data = daemon.run(client, &["inspect", "-f", "{{.GraphDriver.Data.LowerDir}}", "kept"]).exits(0);
    assert!(data.split(':').all(|layer| Path::new(layer).is_file()), "{data}");
    // What is saved is what was loaded, to the byte, and with a user that only the layer knows.
    let [one, two] = ["one.tar", "two.tar"].map(|name| daemon.path(name));
    daemon.run(client, &["save", "-o", &one, "busybox"]).exits(0);
    let id = daemon.run(client, &["images", "-q", "--no-trunc", "busybox"]).exits(0);
    let named = ["run", "-d", "--name", "lives", "--network", "none", "busybox", "sleep", "600"];
    daemon.run(client, &named).exits(0);
    // Another runtime finds its root too, and what is written over a layer's file is another file.
    if daemon.run(client, &["info", "-f", "{{json .Runtimes}}"]).exits(0).contains("\"runc\"") {
        let script = ["sh", "-c", "echo more >> /etc/passwd && tail -n 1 /etc/passwd"];
        let other = ["run", "--rm", "--network", "none", "--runtime", "runc", "busybox"];
        assert_eq!(daemon.run(client, &[&other[..], &script].concat()).exits(0), "more");
    }
    // A daemon that is killed comes back to running containers, and starts others.
    daemon.replace(&["-H", "SOCKET"]);
    assert_eq!(daemon.run(client, &["info", "-f", "{{.Driver}}"]).exits(0), "erofs");
    assert_eq!(daemon.run(client, &["exec", "lives", "echo", "still"]).exits(0), "still");
    assert_eq!(daemon.run(client, &["start", "-a", "kept"]).exits(0), "kept");
    assert_eq!(mounts(), before, "nothing is mounted where the host sees it");
    daemon.run(client, &["rm", "-f", "lives", "kept"]).exits(0);
    let reclaimed = daemon.run(client, &["image", "prune", "-af"]).exits(0);
    assert!(reclaimed.contains("busybox") && !reclaimed.ends_with(" 0B"), "{reclaimed}");
    let layers = std::fs::read_dir(Path::new(&root).join("snapshots/layers")).unwrap();
    assert_eq!(layers.count(), 1, "the empty one");
    daemon.run(client, &["load", "-q", "-i", &one]).exits(0);
    assert_eq!(daemon.run(client, &["images", "-q", "--no-trunc", "busybox"]).exits(0), id);
    daemon.run(client, &["save", "-o", &two, "busybox"]).exits(0);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap());
    // Damage is found, also outside of the archive.
    let layer = daemon.run(client, &["image", "inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "busybox"]);
    let layer = layer.exits(0);
    let file = std::fs::File::options().write(true).open(&layer).unwrap();
    let end = file.metadata().unwrap().len();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", end - 10).unwrap();
    let told = daemon.run(client, &["system", "fsck"]);
    assert!(told.code == 1 && told.out.contains("make it again from the archive"), "{told:?}");
    daemon.run(client, &["system", "fsck", "--repair"]).exits(0);
    assert!(daemon.run(client, &["system", "fsck"]).exits(0).contains("Nothing is damaged."));
    daemon.run(client, &["run", "--rm", "--network", "none", "busybox", "true"]).exits(0);
}

/// What every driver does; the result is what `info` says of it. A container `kept` stays.
fn held(daemon: &Private, client: &Client, driver: &str, root: &str) -> String {
    daemon.load(client);
    let run = |args: &[&str]| daemon.run(client, args);
    assert_eq!(run(&["info", "-f", "{{.Driver}}"]).exits(0), driver);
    assert_eq!(run(&["image", "inspect", "-f", "{{.GraphDriver.Name}}", "busybox"]).exits(0), driver);
    let script = "echo changed > /etc/passwd; mkdir -p /new/folder; echo 12345 > /new/file; rm -r /home; ln -s /new /link; chmod 700 /tmp";
    let both = format!("mkdir -p /home/x; {script}; echo done");
    let out = run(&["run", "--name", "one", "--network", "none", "busybox", "sh", "-c", &both]).exits(0);
    assert_eq!(out, "done");
    let diff = run(&["diff", "one"]).exits(0);
    for line in ["C /etc", "A /new", "A /new/folder", "A /new/file", "A /link"] {
        assert!(diff.lines().any(|found| found == line), "{line} in: {diff}");
    }
    assert!(diff.lines().any(|line| line.ends_with(" /etc/passwd")), "{diff}");
    assert!(!diff.contains("/proc") && !diff.contains("/dev") && !diff.contains("/bin"), "{diff}");
    let size = run(&["ps", "-as", "--filter", "name=one", "--format", "{{.Size}}"]).exits(0);
    let written: u32 = size.split('B').next().and_then(|number| number.parse().ok()).expect("bytes");
    assert!((14..200).contains(&written), "{size}");
    // What is in the layers and what is new are on one file system.
    let devices = "cp /bin/busybox /copy; stat -c %d / /bin/busybox /etc /etc/passwd /copy | sort -u | wc -l";
    let one = run(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", devices]).exits(0);
    assert_eq!(one, "1", "{driver}");
    // Another container of the image has none of it.
    run(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "test ! -e /new && test ! -e /link"])
        .exits(0);
    // Copies, stopped and running.
    assert_eq!(client_copy(daemon, client, "one:/new/file"), "12345\n");
    let file = daemon.path("sent");
    std::fs::write(&file, "sent").unwrap();
    run(&["cp", &file, "one:/new/sent"]).exits(0);
    run(&["commit", "one", "changed"]).exits(0);
    run(&["run", "-d", "--name", "two", "--network", "none", "changed", "sleep", "600"]).exits(0);
    assert_eq!(run(&["exec", "two", "cat", "/new/sent", "/etc/passwd"]).exits(0), "sentchanged");
    assert_eq!(run(&["exec", "two", "stat", "-c", "%a", "/tmp"]).exits(0), "700");
    run(&["exec", "two", "sh", "-c", "test ! -e /home && rm /new/file && echo x > /new/own"]).exits(0);
    assert_eq!(client_copy(daemon, client, "two:/new/own"), "x\n");
    let diff = run(&["diff", "two"]).exits(0);
    let mut lines: Vec<&str> = diff.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A /new/own", "C /new", "D /new/file"], "{driver}");
    run(&["commit", "two", "again"]).exits(0);
    let listed = run(&["run", "--rm", "--network", "none", "again", "ls", "/new"]).exits(0);
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["folder", "own", "sent"]);
    let tar = daemon.path("out.tar");
    run(&["export", "-o", &tar, "two"]).exits(0);
    let names = Command::new("tar").args(["-tf", &tar]).output().unwrap();
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    assert!(names.contains("new/own") && !names.contains("new/file\n"), "{names}");
    run(&["run", "--rm", "--network", "none", "--read-only", "busybox", "true"]).exits(0);
    run(&["rm", "-f", "one", "two"]).exits(0);
    run(&["rmi", "again", "changed"]).exits(0);
    assert!(run(&["system", "fsck"]).exits(0).contains("Nothing is damaged."));
    let containers = Path::new(root).join("snapshots/containers");
    assert_eq!(std::fs::read_dir(containers).unwrap().count(), 0, "{driver}");
    run(&["run", "--name", "kept", "--network", "none", "busybox", "echo", "kept"]).exits(0);
    let trees = std::fs::read_dir(Path::new(root).join("snapshots/trees")).unwrap().count();
    let mounts = matches!(driver, "overlay2" | "erofs");
    assert_eq!(trees, usize::from(!mounts), "the tree of busybox, and no other");
    run(&["info", "-f", "{{.DriverStatus}}"]).exits(0)
}

/// What a file of a container has.
fn client_copy(daemon: &Private, client: &Client, from: &str) -> String {
    let to = daemon.path("copied");
    daemon.run(client, &["cp", from, &to]).exits(0);
    std::fs::read_to_string(&to).unwrap()
}

fn refused(_: &World, _: &Client) {
    for (name, words) in [
        ("aufs", "the storage driver \"aufs\" does not exist any more"),
        ("devicemapper", "choose overlay2 (the default), vfs, btrfs or erofs (experimental)"),
        ("zfs", "needs a kernel with ZFS"),
        ("windowsfilter", "needs Windows"),
    ] {
        fails("{}", &["-H", "SOCKET", "-s", name]).fails(1, words);
        fails(&format!(r#"{{"storage-driver":"{name}"}}"#), &["-H", "SOCKET"]).fails(1, words);
    }
    fails("{}", &["-H", "SOCKET", "-s", "btrfs"]).fails(1, "needs a data root on Btrfs");
    // The kernel mounts nothing from a file in memory; what to do is said, and nothing is recorded.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let line = ["-H", "SOCKET", "-s", "erofs", "--data-root", root.path().to_str().unwrap()];
    fails("{}", &line).fails(1, "choose overlay2");
    assert!(!root.path().join("snapshots/driver").exists());
}

fn full(_: &World, client: &Client) {
    filled(client, "overlay2");
    if havre_testkit::mounts_erofs() {
        filled(client, "erofs");
    }
}

fn filled(client: &Client, driver: &str) {
    let Some(disk) = Disk::new("mkfs.ext4", 96) else { return };
    let root = disk.path().join("data").display().to_string();
    let daemon = Private::start("{}", &["-H", "SOCKET", "--data-root", &root, "-s", driver]);
    daemon.load(client);
    let run = |args: &[&str]| daemon.run(client, args);
    let script = "head -c 9000000 /dev/urandom > /own; head -c 3000000 /dev/urandom | base64";
    run(&["run", "--name", "big", "--network", "none", "busybox", "sh", "-c", script]).exits(0);
    let stored = || {
        let count =
            |name: &str| std::fs::read_dir(Path::new(&root).join("snapshots").join(name)).unwrap().count();
        (count("layers"), count("containers"))
    };
    let before = (stored(), run(&["images", "-q"]).exits(0));
    // 150 MB that do not compress, as an image's only layer.
    let tree = daemon.folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let mut noise = std::fs::File::open("/dev/urandom").unwrap();
    let mut file = std::fs::File::create(tree.join("noise")).unwrap();
    std::io::copy(&mut std::io::Read::take(&mut noise, 150 << 20), &mut file).unwrap();
    let tar = daemon.path("tree.tar");
    let packed = Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&tree).arg(".").status().unwrap();
    assert!(packed.success());
    let told = run(&["import", &tar, "large"]);
    assert_ne!(told.code, 0);
    for words in [
        "No space left on device",
        &format!("the file system {} of the data root is full (", disk.path().display()),
        "images: ",
        "busybox:latest ",
        "files of containers: 9.0MB (big 9.0MB); logs: ",
        "MB (big ",
    ] {
        assert!(told.err.contains(words), "{words:?} in: {told:?}");
    }
    // What had begun is deleted behind.
    emptied(&Path::new(&root).join("snapshots/tmp"));
    run(&["image", "inspect", "large"]).fails(1, "No such image");
    assert_eq!((stored(), run(&["images", "-q"]).exits(0)), before);
    run(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo fits > /file"]).exits(0);
    // Commits fail in the same words: the upper layer has room for one copy of itself, not for five.
    let grow = "for n in 1 2 3 4 5; do head -c 8000000 /dev/urandom > /grown$n; done";
    run(&["run", "--name", "grown", "--network", "none", "busybox", "sh", "-c", grow]).exits(0);
    let told = run(&["commit", "grown", "twice"]);
    assert!(told.code != 0 && told.err.contains("files of containers: 49.0MB (grown 40.0MB"), "{told:?}");
    assert_eq!((stored().0, run(&["images", "-q"]).exits(0)), (before.0.0, before.1));
    emptied(&Path::new(&root).join("snapshots/tmp"));
    run(&["rm", "grown", "big"]).exits(0);
    run(&["system", "fsck"]).exits(0);
    drop(daemon);
}

/// Above its high watermark the engine removes images that nobody named, the oldest first, and nothing else.
fn watermarks(_: &World, client: &Client) {
    let Some(disk) = Disk::new("mkfs.ext4", 96) else { return };
    let root = disk.path().join("data").display().to_string();
    let marks = r#"{"disk-watermarks": {"high": "60%", "low": "40%", "min-age": "0s"}}"#;
    let daemon = Private::start(marks, &["-H", "SOCKET", "--data-root", &root]);
    daemon.load(client);
    let run = |args: &[&str]| daemon.run(client, args);
    let tar = daemon.path("noise.tar");
    let import = |name: &[&str]| {
        let tree = tempfile::tempdir().unwrap();
        let mut noise = std::fs::File::open("/dev/urandom").unwrap();
        let mut file = std::fs::File::create(tree.path().join("noise")).unwrap();
        std::io::copy(&mut std::io::Read::take(&mut noise, 9 << 20), &mut file).unwrap();
        assert!(
            Command::new("tar")
                .args(["-cf", &tar, "-C"])
                .arg(tree.path())
                .arg(".")
                .status()
                .unwrap()
                .success()
        );
        let id = run(&[&["import", &tar], name].concat()).exits(0);
        (id.trim().to_owned(), std::time::Instant::now())
    };
    let named = import(&["named"]).0;
    let used = import(&[]).0;
    run(&["create", "--name", "user", "--network", "none", &used, "/noise"]).exits(0);
    let first = import(&[]).0;
    let second = import(&[]).0;
    // The disk is not full yet; one more and it is.
    run(&["image", "inspect", "-f", "{{.Id}}", &first, &second]).exits(0);
    let third = import(&[]).0;
    let fourth = import(&[]).0;
    daemon.wait_for("above its high watermark", 1);
    let left = run(&["images", "-aq", "--no-trunc"]).exits(0);
    assert!(left.contains(&named) && left.contains(&used), "{left}");
    assert!(!left.contains(&first) && !left.contains(&second), "the oldest of {third} {fourth} go: {left}");
    run(&["image", "inspect", "busybox"]).exits(0);
    let gone = run(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=delete",
        "--format",
        "{{.Actor.ID}}",
    ]);
    let gone = gone.exits(0);
    assert!(gone.contains(&first), "{gone}");
    run(&["rm", "user"]).exits(0);
    run(&["system", "fsck"]).exits(0);
    drop(daemon);
}

/// Waits until the engine has deleted everything in a folder.
fn emptied(folder: &Path) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::fs::read_dir(folder).unwrap().next().is_some() {
        assert!(std::time::Instant::now() < patience, "{} is not emptied", folder.display());
        std::thread::yield_now();
    }
}
