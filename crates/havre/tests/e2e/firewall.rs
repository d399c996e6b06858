//! The host's firewall beside a daemon, each with its own network namespace as the host.

use std::process::Command;

use crate::Test;
use crate::private::{Private, fails, havre};
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("firewall_n03_a flushed ruleset is written again while containers run", flushed),
    ("firewall_n01_published ports are what the host says", judged),
];

/// A host of its own: a daemon in a network namespace that goes with it.
struct Machine(Private);

impl Machine {
    /// None where a program is missing.
    fn start(json: &str) -> Option<Self> {
        for program in ["nft", "ip", "unshare", "nsenter"] {
            if Command::new(program).arg("--help").output().is_err() {
                println!("SKIP: {program} is not installed");
                return None;
            }
        }
        let folder = Private::folder(json);
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
        command.arg(havre()).args(Private::line(folder.path(), &["-H", "SOCKET"]));
        Some(Self(Private::spawn(folder, command)))
    }

    /// Changes the packet filter of the host.
    fn nft(&self, words: &str) {
        let net = format!("--net=/proc/{}/ns/net", self.0.pid());
        let status = Command::new("nsenter").args([&net, "nft", words]).status().expect("it runs");
        assert!(status.success(), "nft {words}");
    }

    fn serve(&self, client: &Client) {
        self.0.load(client);
        let start =
            ["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", crate::networks::SERVE];
        self.0.run(client, &start).exits(0);
        self.0.run(client, &["network", "create", "apart"]).exits(0);
        self.0
            .run(client, &["run", "-d", "--name", "other", "--network", "apart", "busybox", "sleep", "600"])
            .exits(0);
        assert!(self.reaches(client), "from another container, by the host's address");
    }

    /// Whether the port of the host is reached by a container of another network.
    fn reaches(&self, client: &Client) -> bool {
        let script = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | \
                      timeout 2 nc $(ip route | grep default | cut -d' ' -f3) 8080";
        let said = self.0.run(client, &["exec", "other", "sh", "-c", script]);
        said.out.contains("served")
    }

    #[track_caller]
    fn reaches_again(&self, client: &Client) {
        assert!((0..20).any(|_| self.reaches(client)), "{}", self.0.log());
    }
}

fn flushed(_: &World, client: &Client) {
    let Some(machine) = Machine::start("{}") else { return };
    machine.serve(client);
    machine.nft("flush ruleset");
    machine.reaches_again(client);
    machine.0.wait_for("somebody changed or removed the firewall's table", 1);
}

fn judged(_: &World, client: &Client) {
    fails(r#"{"publish-policy":"nobody"}"#, &["--validate"])
        .fails(1, "invalid publish-policy: nobody: want forward or host-input");
    let drop =
        "add table inet own; add chain inet own in { type filter hook input priority 0; policy drop; }";
    for (policy, refused) in [("forward", false), ("host-input", true)] {
        let Some(machine) = Machine::start(&format!(r#"{{"publish-policy":"{policy}"}}"#)) else { return };
        machine.serve(client);
        machine.nft(drop);
        assert_eq!(machine.reaches(client), !refused, "{policy}");
        machine.nft(
            "add rule inet own in tcp dport 8080 accept; add rule inet own in ct state established accept",
        );
        assert!(machine.reaches(client), "{policy}");
    }
}
