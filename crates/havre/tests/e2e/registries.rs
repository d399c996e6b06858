//! Registries for tests: Debian's `docker-registry` as a process of the test's own, plain, with TLS and passwords, or
//! behind a token server that the test plays.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use havre_testkit::registry::{FakeRegistry, Reply};
use serde_json::json;
use tempfile::TempDir;

/// The name and the password that the registries with passwords know.
pub(crate) const USER: &str = "anna";
pub(crate) const PASSWORD: &str = "geheim";

/// Debian's registry. It ends with the value.
pub(crate) struct DebianRegistry {
    child: Child,
    pub(crate) host: String,
    pub(crate) folder: TempDir,
    /// A folder below `/etc/docker/certs.d` that goes with it.
    certs: Option<PathBuf>,
}

impl DebianRegistry {
    /// Open to everybody.
    pub(crate) fn plain() -> Option<Self> {
        Self::start(tempfile::tempdir().expect("a folder"), "", "")
    }

    /// With a certificate, and for [`USER`] only.
    pub(crate) fn locked() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let Ok(made) = Command::new("htpasswd").args(["-nbB", "-C", "4", USER, PASSWORD]).output() else {
            println!("SKIP registries with passwords: htpasswd (apache2-utils) is not installed");
            return None;
        };
        std::fs::write(at("passwords"), made.stdout).expect("a file");
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", at("passwords"));
        Self::start(folder, &auth, "tls")
    }

    /// Asks `server` for tokens, which `tokens` signs.
    pub(crate) fn behind(server: &str, tokens: &Tokens) -> Option<Self> {
        let auth = format!(
            "auth:\n  token:\n    realm: http://{server}/token\n    service: test\n    issuer: test\n    rootcertbundle: {}\n",
            tokens.folder.path().join("cert.pem").display()
        );
        Self::start(tempfile::tempdir().expect("a folder"), &auth, "")
    }

    fn start(folder: TempDir, auth: &str, tls: &str) -> Option<Self> {
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut http = "http:\n  addr: 127.0.0.1:0\n  secret: test\n".to_owned();
        if !tls.is_empty() {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
            std::fs::write(at("cert.pem"), made.cert.pem()).expect("a file");
            std::fs::write(at("key.pem"), made.signing_key.serialize_pem()).expect("a file");
            http += &format!("  tls:\n    certificate: {}\n    key: {}\n", at("cert.pem"), at("key.pem"));
        }
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\n{http}{auth}",
            at("storage")
        );
        std::fs::write(at("config.yml"), text).expect("a file");
        let mut command = Command::new("docker-registry");
        command.args(["serve", &at("config.yml")]).stdin(Stdio::null()).stdout(Stdio::null());
        let Ok(mut child) = command.stderr(Stdio::piped()).spawn() else {
            println!("SKIP registries: docker-registry is not installed");
            return None;
        };
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let said = lines.by_ref().find(|line| line.contains("listening on "));
        let said = said.unwrap_or_else(|| panic!("docker-registry does not start: {:?}", child.wait()));
        let rest = said.split("listening on ").nth(1).expect("an address");
        let host: String =
            rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
        // What it says goes nowhere, but must not fill the pipe; ends with the registry.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, host, folder, certs: None })
    }

    /// Trusts its certificate as an administrator does.
    pub(crate) fn trust(&mut self) {
        let folder = Path::new("/etc/docker/certs.d").join(&self.host);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::copy(self.folder.path().join("cert.pem"), folder.join("ca.crt")).expect("a file");
        self.certs = Some(folder);
    }

    /// A name in it.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(folder) = &self.certs {
            std::fs::remove_dir_all(folder).ok();
            // Those above, if nobody else has anything there.
            for parent in folder.ancestors().skip(1).take(2) {
                std::fs::remove_dir(parent).ok();
            }
        }
    }
}

/// Signs tokens that Debian's registry believes.
pub(crate) struct Tokens {
    folder: TempDir,
}

impl Tokens {
    pub(crate) fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]);
        let made = command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&folder).output();
        if made.is_ok_and(|made| made.status.success()) {
            return Some(Self { folder });
        }
        println!("SKIP token servers: openssl is not installed");
        None
    }

    /// A token for these rights: `repository:a/b:pull,push`.
    fn sign(&self, scopes: &[String]) -> String {
        let at = |name: &str| self.folder.path().join(name);
        let pem = std::fs::read_to_string(at("cert.pem")).expect("a file");
        let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
        let access: Vec<serde_json::Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (thing, actions) = scope.rsplit_once(':')?;
                let (kind, name) = thing.split_once(':')?;
                let actions: Vec<&str> = actions.split(',').collect();
                Some(json!({ "type": kind, "name": name, "actions": actions }))
            })
            .collect();
        let claims = json!({
            "iss": "test", "sub": USER, "aud": "test", "jti": "1",
            "iat": 1_600_000_000, "nbf": 1_600_000_000, "exp": 4_000_000_000_u64, "access": access,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        std::fs::write(at("text"), &text).expect("a file");
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-sign", "key.pem", "text"]);
        let signed = command.current_dir(&self.folder).output().expect("openssl runs");
        assert!(signed.status.success(), "{signed:?}");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signed.stdout))
    }

    /// A token server: everybody may read what begins with `open/`, [`USER`] may do anything, at login he gets a token
    /// that stands for his password.
    pub(crate) fn serve(self: std::sync::Arc<Self>) -> FakeRegistry {
        let server = FakeRegistry::start().expect("it listens");
        server.lie(move |asked| {
            let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
            if path != "/token" {
                return None;
            }
            let form = String::from_utf8_lossy(&asked.body).into_owned();
            let all = if asked.method == "POST" { form.as_str() } else { query };
            let fields: Vec<(String, String)> = all
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), decoded(value)))
                .collect();
            let field = |name: &str| {
                fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
            };
            let known = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
            let owner = if asked.method == "POST" {
                field("grant_type") == "refresh_token" && field("refresh_token") == "stands-for-anna"
            } else {
                asked.header("authorization") == known
            };
            let nobody = asked.method == "GET" && asked.header("authorization").is_empty();
            if !owner && !nobody {
                let text =
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#;
                return Some(Reply::body(401, text));
            }
            let scopes = fields.iter().filter(|(key, _)| key == "scope");
            let scopes = scopes.flat_map(|(_, value)| value.split(' ')).map(|scope| match owner {
                true => scope.to_owned(),
                false if scope.starts_with("repository:open/") => scope.replace(",push", ""),
                false => scope.rsplit_once(':').map_or(String::new(), |(thing, _)| format!("{thing}:")),
            });
            let token = self.sign(&scopes.collect::<Vec<_>>());
            let mut answer = json!({ "token": token, "expires_in": 60 });
            if field("offline_token") == "true" && owner {
                answer["refresh_token"] = "stands-for-anna".into();
            }
            Some(Reply::body(200, answer.to_string()).with("Content-Type", "application/json"))
        });
        server
    }
}

/// Without percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = std::str::from_utf8(&digits).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).expect("a text")
}
