//! A real distribution: its own tools, users and compiler.

use crate::Test;
use crate::cases::{detached, remove};
use crate::terminal::Terminal;
use crate::world::{Client, World};

/// Through every client.
pub(crate) const ALL: &[Test] = &[
    ("debian runs its package tool and changes users", tools),
    ("debian compiles and runs a program", compiler),
    ("debian has bash on a terminal", terminal),
    ("debian lives detached and takes execs", long_life),
];

fn run(client: &Client, flags: &[&str], command: &[&str]) -> String {
    let start = ["run", "--rm", "--label", "e2e", "--network", "none"];
    client.run(&[&start, flags, &["debian:test"], command].concat()).exits(0)
}

fn tools(world: &World, client: &Client) {
    if !world.has_debian() {
        return;
    }
    assert!(run(client, &[], &["apt-get", "--version"]).starts_with("apt "));
    assert!(run(client, &[], &["dpkg", "-l", "bash"]).contains("bash"));
    let nobody = run(client, &[], &["su", "nobody", "-s", "/bin/sh", "-c", "id"]);
    assert_eq!(nobody, "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)");
    let made = "useradd -m alice && su - alice -c 'id -un; pwd; touch file; stat -c %U file'";
    assert_eq!(run(client, &[], &["sh", "-c", made]), "alice\n/home/alice\nalice");
    assert_eq!(run(client, &["-u", "nobody"], &["id", "-un"]), "nobody");
    assert_eq!(
        run(client, &[], &["sh", "-c", "ps -e -o comm= | grep -x ps | sort | uniq | head -n 1"]),
        "ps"
    );
}

fn compiler(world: &World, client: &Client) {
    if !world.has_debian() {
        return;
    }
    let program = "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 6 * 7); return 3; }\n";
    let args = ["run", "--rm", "-i", "--label", "e2e", "--network", "none", "debian:test", "sh", "-c"];
    let script = "cat >/tmp/a.c && cc -O1 -o /tmp/a /tmp/a.c && /tmp/a";
    let outcome = client.with_input(&[&args[..], &[script]].concat(), program.as_bytes());
    assert_eq!(outcome.exits(3), "42");
}

fn terminal(world: &World, client: &Client) {
    if !world.has_debian() {
        return;
    }
    let args = ["run", "--rm", "-it", "--label", "e2e", "--network", "none", "debian:test", "bash"];
    let mut terminal = Terminal::run(client, &args);
    terminal.expect("# ");
    terminal.send("tty; stty size; echo $((40 + 2)) $TERM\r");
    terminal.expect("/dev/pts/");
    terminal.expect("40 100");
    terminal.expect("42 xterm");
    // Job control needs a session and a controlling terminal.
    terminal.send("sh -c 'echo r$((1+1))dy; exec sleep 1000'\r");
    terminal.expect("r2dy");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.send("disown -a; exit 5\r");
    assert_eq!(terminal.end(), 5);
}

fn long_life(world: &World, client: &Client) {
    if !world.has_debian() {
        return;
    }
    let name = client.unique("debian");
    client.run(&["rm", "-f", &name]);
    let start = ["run", "-d", "--label", "e2e", "--network", "none", "--name", &name, "debian:test"];
    let script = "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done";
    client.run(&[&start[..], &["bash", "-c", script]].concat()).exits(0);
    client.follow_until(&name, "up");
    assert_eq!(client.run(&["exec", &name, "bash", "-c", "echo $BASH_SUBSHELL; exit 6"]).exits(6), "0");
    client.run(&["stop", &name]).exits(0);
    assert_eq!(client.run(&["wait", &name]).exits(0), "4");
    remove(client, &name);
    let again = detached(client, "again", &[], &["true"]);
    remove(client, &again);
}
