//! Files of containers through the command line: cp, diff, export, commit, sizes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::Test;
use crate::world::{Client, Outcome, World, finish};

pub(crate) const ALL: &[Test] = &[
    ("files are copied in every state of a container", every_state),
    ("copies follow Docker's rules for paths", path_rules),
    ("archives are copied through standard streams", streams),
    ("what is mounted is seen by copies", mounts),
    ("owners of copies", owners),
    ("a read-only container takes no files", read_only),
    ("diff tells what changed", diff),
    ("export gives the root file system", export),
    ("commit makes an image of the changes", commit),
    ("sizes are told when asked for", sizes),
];

impl Client {
    /// Runs a command line in a folder.
    pub(crate) fn run_in(&self, folder: &Path, args: &[&str]) -> Outcome {
        finish(self.command(args).current_dir(folder).stdin(Stdio::null()).output().expect("the client runs"))
    }

    /// A container that was only made.
    pub(crate) fn created(&self, name: &str, flags: &[&str], command: &[&str]) -> String {
        let name = self.unique(name);
        let create = ["create", "--name", &name, "--label", "e2e", "--network", "none"];
        self.run(&[&create, flags, &["e2e/busybox"], command].concat()).exits(0);
        name
    }

    /// A container that runs until it is removed.
    pub(crate) fn sleeper(&self, name: &str, flags: &[&str]) -> String {
        let name = self.unique(name);
        let start = ["run", "-d", "--name", &name, "--label", "e2e", "--network", "none"];
        let runtime = self.runtime.map(|runtime| ["--runtime", runtime]);
        let runtime = runtime.as_ref().map_or(&[][..], |words| words);
        self.run(&[&start, flags, runtime, &["e2e/busybox", "sleep", "1000"]].concat()).exits(0);
        name
    }

    pub(crate) fn remove(&self, name: &str) {
        self.run(&["rm", "-f", name]).exits(0);
    }

    fn shell(&self, name: &str, script: &str) -> String {
        self.run(&["exec", name, "sh", "-c", script]).exits(0)
    }
}

/// A folder of a test's own.
pub(crate) fn scratch(world: &World, client: &Client, name: &str) -> PathBuf {
    let folder = world.folder().join(format!("{}-{name}", client.name));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn every_state(world: &World, client: &Client) {
    let here = scratch(world, client, "states");
    fs::write(here.join("file"), "content").unwrap();
    let name = client.created("states", &[], &["sleep", "1000"]);
    let round = |state: &str| {
        let inside = format!("{name}:/{state}");
        client.run_in(&here, &["cp", "file", &inside]).exits(0);
        client.run_in(&here, &["cp", &inside, state]).exits(0);
        assert_eq!(fs::read_to_string(here.join(state)).unwrap(), "content", "{state}");
    };
    round("created");
    client.run(&["start", &name]).exits(0);
    round("running");
    client.run(&["pause", &name]).exits(0);
    round("paused");
    client.run(&["unpause", &name]).exits(0);
    client.run(&["stop", "-t", "0", &name]).exits(0);
    round("stopped");
    client.run(&["start", &name]).exits(0);
    assert_eq!(client.shell(&name, "cat /created /running /paused /stopped"), "content".repeat(4));
    client.remove(&name);
}

fn path_rules(world: &World, client: &Client) {
    let here = scratch(world, client, "rules");
    fs::create_dir_all(here.join("src/sub")).unwrap();
    fs::write(here.join("src/f"), "1").unwrap();
    fs::write(here.join("src/sub/g"), "2").unwrap();
    fs::write(here.join("file"), "file").unwrap();
    symlink("src/f", here.join("lf")).unwrap();
    symlink("src", here.join("ls")).unwrap();
    let name = client.sleeper("rules", &[]);
    let script = "mkdir -p /dir /src2/sub; echo 1 >/src2/f; echo 2 >/src2/sub/g; echo x >/file;
        ln -s /dir /ldir; ln -s /nope /bad; ln -s /file /lfile";
    client.shell(&name, script);
    // What is then found below /dir and /new, or the error.
    for (flags, from, to, expected) in [
        ("", "src", "/dir", Ok("/dir/src/f /dir/src/sub/g")),
        ("", "src", "/dir/", Ok("/dir/src/f /dir/src/sub/g")),
        ("", "src", "/new", Ok("/new/f /new/sub/g")),
        ("", "src", "/new/", Ok("/new/f /new/sub/g")),
        ("", "src/.", "/dir", Ok("/dir/f /dir/sub/g")),
        ("", "src/.", "/new", Ok("/new/f /new/sub/g")),
        ("", "src", "/file", Err("cannot copy directory")),
        ("", "src", "/ldir", Ok("/dir/src/f /dir/src/sub/g")),
        ("", "file", "/dir", Ok("/dir/file")),
        ("", "file", "/ldir", Ok("/dir/file")),
        ("", "file", "/new", Ok("/new")),
        ("", "file", "/new/", Err("no such directory")),
        ("", "file", "/no/pe", Err("Could not find the file /no in container")),
        ("", "src", "/no/pe", Err("Could not find the file /no in container")),
        ("", "lf", "/dir", Ok("/dir/lf@")),
        ("-L", "lf", "/dir", Ok("/dir/lf")),
        ("", "ls", "/dir", Ok("/dir/ls@")),
        ("", "ls/", "/dir", Ok("/dir/ls/f /dir/ls/sub/g")),
        ("", "ls/.", "/dir", Ok("/dir/f /dir/sub/g")),
        ("-L", "ls", "/dir", Ok("/dir/ls/f /dir/ls/sub/g")),
        ("", "nope", "/dir", Err("no such file or directory")),
        ("", "file", "/dev/null", Err("must be a directory or a regular file: got a device")),
    ] {
        let inside = format!("{name}:{to}");
        let words: Vec<&str> =
            ["cp", flags, from, &inside].into_iter().filter(|word| !word.is_empty()).collect();
        let outcome = client.run_in(&here, &words);
        match expected {
            Err(text) => outcome.fails(1, text),
            Ok(files) => {
                outcome.exits(0);
                let list = "cd /; for f in $(find dir new ! -type d 2>/dev/null | sort); do
                    [ -L $f ] && echo /$f@ || echo /$f; done; rm -rf /dir/* /new";
                let found = client.shell(&name, list).split_whitespace().collect::<Vec<_>>().join(" ");
                assert_eq!(found, files, "{flags} {from} {to}");
            }
        }
    }
    for (flags, from, to, expected) in [
        ("", "/src2", "dst", Ok("dst/src2/f dst/src2/sub/g")),
        ("", "/src2", "new", Ok("new/f new/sub/g")),
        ("", "/src2/.", "dst", Ok("dst/f dst/sub/g")),
        ("", "/src2/.", "new", Ok("new/f new/sub/g")),
        ("", "/src2", "file", Err("cannot copy directory")),
        ("", "/file", "dst", Ok("dst/file")),
        ("", "/file", "new", Ok("new")),
        ("", "/file", "new/", Err("no such directory")),
        ("", "/file", "no/pe", Err("does not exist")),
        ("", "/lfile", "dst", Ok("dst/lfile@")),
        ("-L", "/lfile", "dst", Ok("dst/lfile")),
        ("", "/ldir/", "dst", Ok("dst")),
        ("", "/nope", "dst", Err("Could not find the file /nope in container")),
        ("-L", "/bad", "dst", Err("Could not find the file")),
        ("", "/file", "/dev/null", Err("must be a directory or a regular file: got a device")),
    ] {
        for old in ["dst", "new"] {
            fs::remove_dir_all(here.join(old)).or_else(|_| fs::remove_file(here.join(old))).ok();
        }
        fs::create_dir(here.join("dst")).unwrap();
        let inside = format!("{name}:{from}");
        let words: Vec<&str> =
            ["cp", flags, &inside, to].into_iter().filter(|word| !word.is_empty()).collect();
        let outcome = client.run_in(&here, &words);
        match expected {
            Err(text) => outcome.fails(1, text),
            Ok(files) => {
                outcome.exits(0);
                for file in files.split(' ') {
                    let path = here.join(file.trim_end_matches('@'));
                    let meta = fs::symlink_metadata(&path)
                        .unwrap_or_else(|_| panic!("{flags} {from} {to}: no {file}"));
                    assert_eq!(meta.is_symlink(), file.ends_with('@'), "{flags} {from} {to}: {file}");
                }
            }
        }
    }
    client.run_in(&here, &["cp", "a", "b"]).fails(1, "must specify at least one container source");
    client.run_in(&here, &["cp", "a:/x", "b:/x"]).fails(1, "copying between containers is not supported");
    let said = client.run_in(&here, &["cp", "-q=false", "file", &format!("{name}:/dir")]);
    assert!(said.err.contains(&format!("Successfully copied 2.05kB to {name}:/dir")), "{}", said.err);
    client.remove(&name);
}

fn streams(_: &World, client: &Client) {
    let name = client.sleeper("streams", &[]);
    client.shell(&name, "mkdir /in; echo one >/etc/one");
    let (status, archive) = client.bytes(&["cp", &format!("{name}:/etc/one"), "-"], b"");
    assert!(status.success() && archive.len() % 512 == 0);
    client.with_input(&["cp", "-", &format!("{name}:/in")], &archive).exits(0);
    assert_eq!(client.shell(&name, "cat /in/one"), "one");
    let (status, _) = client.bytes(&["cp", "-", &format!("{name}:/etc/one")], &archive);
    assert_eq!(status.code(), Some(1));
    let (status, _) = client.bytes(&["cp", "-", &format!("{name}:/in")], b"no archive at all");
    assert_eq!(status.code(), Some(1));
    client.remove(&name);
}

fn mounts(world: &World, client: &Client) {
    let here = scratch(world, client, "mounts");
    let bound = here.join("bound");
    fs::create_dir(&bound).unwrap();
    fs::write(here.join("file"), "content").unwrap();
    let name =
        client.sleeper("mounts", &["-v", &format!("{}:/bound", bound.display()), "--tmpfs", "/memory"]);
    client.run_in(&here, &["cp", "file", &format!("{name}:/bound/running")]).exits(0);
    client.run_in(&here, &["cp", "file", &format!("{name}:/memory/")]).exits(0);
    assert_eq!(client.shell(&name, "cat /memory/file /bound/running"), "content".repeat(2));
    client.run(&["stop", "-t", "0", &name]).exits(0);
    client.run_in(&here, &["cp", "file", &format!("{name}:/bound/stopped")]).exits(0);
    assert_eq!(fs::read_to_string(bound.join("stopped")).unwrap(), "content");
    client.run_in(&here, &["cp", &format!("{name}:/bound/running"), "out"]).exits(0);
    assert_eq!(fs::read_to_string(here.join("out")).unwrap(), "content");
    let seen = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!seen.contains(&*name) && !seen.contains("/bound"), "nothing is mounted where others see it");
    client.remove(&name);
}

fn owners(world: &World, client: &Client) {
    let here = scratch(world, client, "owners");
    fs::write(here.join("file"), "x").unwrap();
    std::os::unix::fs::chown(here.join("file"), Some(1234), Some(77)).unwrap();
    let name = client.sleeper("owners", &["--user", "42:43"]);
    client.run_in(&here, &["cp", "file", &format!("{name}:/kept")]).exits(0);
    client.run_in(&here, &["cp", "-a", "file", &format!("{name}:/users")]).exits(0);
    assert_eq!(client.shell(&name, "stat -c %u:%g /kept /users"), "1234:77\n42:43");
    client.run_in(&here, &["cp", &format!("{name}:/users"), "mine"]).exits(0);
    assert_eq!(fs::metadata(here.join("mine")).unwrap().uid(), 0);
    client.remove(&name);
}

fn read_only(world: &World, client: &Client) {
    let here = scratch(world, client, "read-only");
    fs::write(here.join("file"), "x").unwrap();
    let (open, closed) = (here.join("open"), here.join("closed"));
    fs::create_dir(&open).unwrap();
    fs::create_dir(&closed).unwrap();
    let (open_flag, closed_flag) =
        (format!("{}:/open", open.display()), format!("{}:/closed:ro", closed.display()));
    let name = client.sleeper("read-only", &["--read-only", "-v", &open_flag, "-v", &closed_flag]);
    let to = |path: &str| client.run_in(&here, &["cp", "file", &format!("{name}:{path}")]);
    to("/x").fails(1, "container rootfs is marked read-only");
    to("/closed/x").fails(1, "mounted volume is marked read-only");
    to("/open/x").exits(0);
    assert!(open.join("x").exists());
    client.remove(&name);
}

fn diff(_: &World, client: &Client) {
    let quiet = client.sleeper("unchanged", &[]);
    assert_eq!(client.run(&["diff", &quiet]).exits(0), "");
    client.remove(&quiet);
    let base = client.unique("diff-base").to_lowercase();
    let name = client.sleeper("diff", &[]);
    client.shell(&name, "mkdir -p /dd/k /ee; echo 1 >/dd/x; echo 1 >/dd/k/y");
    client.run(&["commit", &name, &base]).exits(0);
    client.remove(&name);
    let changes = "rm -r /dd; mkdir /dd; echo n >/dd/n; chmod 600 /ee; ln /bin/busybox /ee/b; echo 1 >/new";
    let name = client.unique("diff2");
    let run = ["run", "--name", &name, "--label", "e2e", "--network", "none", &base, "sh", "-c", changes];
    client.run(&run).exits(0);
    let told = client.run(&["diff", &name]).exits(0);
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told, ["C /dd", "D /dd/k", "A /dd/n", "D /dd/x", "C /ee", "A /ee/b", "A /new"]);
    client.remove(&name);
    client.run(&["rmi", &base]).exits(0);
    client.run(&["diff", "no-such"]).fails(1, "No such container: no-such");
}

fn export(world: &World, client: &Client) {
    let here = scratch(world, client, "export");
    let name = client.sleeper("export", &["--tmpfs", "/memory"]);
    client.shell(
        &name,
        "echo kept >/kept; echo gone >/memory/gone; ln /kept /also; rm /bin/busybox2 2>/dev/null; true",
    );
    for state in ["running", "stopped"] {
        client.run_in(&here, &["export", "-o", state, &name]).exits(0);
        let list = std::process::Command::new("tar").arg("tf").arg(here.join(state)).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let has = |name: &str| list.lines().any(|line| line == name);
        assert!(has("kept") && has("also") && has("bin/busybox") && has("memory/"), "{list}");
        assert!(!has("memory/gone") && !list.contains("proc/self"), "{list}");
        client.run(&["stop", "-t", "0", &name]).exits(0);
    }
    client.run_in(&here, &["export", "-o", "no/such", &name]).fails(1, "invalid output path");
    let (status, archive) = client.bytes(&["export", &name], b"");
    assert!(status.success() && archive.len() > 100_000);
    client.remove(&name);
}

fn commit(world: &World, client: &Client) {
    let name = client.sleeper("commit", &["-e", "A=1", "-l", "own=2"]);
    client.shell(&name, "echo new >/new; rm /bin/false 2>/dev/null; mkfifo /pipe; ln /new /again");
    let image = format!("{}:two", client.unique("commit").to_lowercase());
    let id = client
        .run(&[
            "commit",
            "-a",
            "me",
            "-m",
            "a note",
            "-c",
            "CMD [\"cat\",\"/again\"]",
            "-c",
            "ENV B=3",
            &name,
            &image,
        ])
        .exits(0);
    let told = client
        .run(&["inspect", "-f", "{{.Id}} {{.Author}} {{.Config.Env}} {{.Config.Cmd}}", &image])
        .exits(0);
    assert!(told.starts_with(&id) && told.contains(" me ") && told.contains("A=1"), "{told}");
    assert!(told.contains("B=3") && told.ends_with("[cat /again]"), "{told}");
    let history = client.run(&["history", "--format", "{{.CreatedBy}}|{{.Comment}}", &image]).exits(0);
    assert_eq!(history.lines().next(), Some("sleep 1000|a note"));
    let run = ["run", "--rm", "--label", "e2e", "--network", "none", image.as_str()];
    assert_eq!(client.run(&run).exits(0), "new");
    let check = ["sh", "-c", "[ -p /pipe ] && [ ! -e /proc/nothing ] && ls -A /proc | head -1"];
    client.run(&[run.as_slice(), &check].concat()).exits(0);
    // It goes on, unless it was frozen before.
    assert_eq!(client.shell(&name, "echo runs"), "runs");
    let key = client.run(&["inspect", "-f", "{{.Id}}", &name]).exits(0);
    let told = world.events(&key);
    assert!(told.iter().any(|event| event == "commit"), "{told:?}");
    client.run(&["commit", &name, "UPPER"]).fails(1, "must be lowercase");
    client.run(&["commit", "-c", "FROM x", &name]).fails(1, "is not a valid change command");
    client.run(&["commit", "no-such"]).fails(1, "No such container: no-such");
    client.run(&["rmi", &image]).exits(0);
    client.remove(&name);
}

fn sizes(_: &World, client: &Client) {
    let name = client.sleeper("sizes", &[]);
    client.shell(&name, "head -c 5000 /dev/zero >/five; ln /five /other");
    let filter = format!("name={name}");
    let told = client.run(&["ps", "-s", "--filter", &filter, "--format", "{{.Size}}"]).exits(0);
    assert!(told.starts_with("5kB (virtual "), "{told}");
    let told = client.run(&["inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", &name]).exits(0);
    let numbers: Vec<u64> = told.split(' ').map(|text| text.parse().unwrap()).collect();
    assert!(numbers[0] == 5000 && numbers[1] > 100_000, "{told}");
    client.remove(&name);
}
