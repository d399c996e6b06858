//! Who asks: names and passwords, tokens, and where they must not go.

use havre_oci::Reference;
use havre_oci::image::media;
use havre_registry::{Access, Credentials, Registries, RegistryError, Settings, TokenServer};
use havre_testkit::registry::{FakeRegistry, Reply};

use crate::{quick, run, told};

fn password() -> Credentials {
    Credentials::Password { user: "me".into(), password: "geheim".into() }
}

/// `me:geheim`.
const BASIC: &str = "Basic bWU6Z2VoZWlt";

async fn manifest(registries: &Registries, host: &str, who: Credentials) -> Result<(), RegistryError> {
    let reference = Reference::parse(&format!("{host}/a/b:1")).unwrap();
    registries.repository(&reference, Access::Pull, who).await.manifest("1").await.map(drop)
}

#[test]
fn name_and_password_are_sent_when_they_are_asked_for() {
    let registry = FakeRegistry::start().unwrap();
    registry.manifest("a/b", "1", media::MANIFEST, "{}");
    registry.lie(|asked| {
        let refused =
            Reply::body(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
                .with("WWW-Authenticate", "Basic realm=\"x\"");
        (asked.header("authorization") != BASIC).then_some(refused)
    });
    let registries = Registries::new(quick());
    run(async {
        let host = registry.host();
        manifest(&registries, &host, password()).await.unwrap();
        let seen: Vec<_> =
            registry.asked().iter().map(|asked| asked.header("authorization").to_owned()).collect();
        assert_eq!(seen, ["", BASIC]);
        let wrong = Credentials::Password { user: "me".into(), password: "x".into() };
        let error = manifest(&registries, &host, wrong.clone()).await.unwrap_err();
        assert_eq!(told(&error), "unauthorized: authentication required");
        let error = manifest(&registries, &host, Credentials::Anonymous).await.unwrap_err();
        assert_eq!(told(&error), "no basic auth credentials");
        assert_eq!(registries.login(&host, &password()).await.unwrap().identity, None);
        let error = told(&registries.login(&host, &wrong).await.unwrap_err());
        assert_eq!(error, format!("login attempt to http://{host}/v2/ failed with status: 401 Unauthorized"));
    });
}

#[test]
fn tokens_come_from_the_token_server() {
    let (registry, server) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    registry.manifest("a/b", "1", media::MANIFEST, "{}");
    let realm = format!("http://{}/token", server.host());
    registry.lie(move |asked| {
        let refused = Reply::status(401).with(
            "WWW-Authenticate",
            format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:a/b:pull\""),
        );
        (asked.header("authorization") != "Bearer good").then_some(refused)
    });
    server.lie(|asked| {
        Some(if asked.header("authorization") == BASIC {
            Reply::body(200, r#"{"token":"good","refresh_token":"later","expires_in":1}"#)
        } else if asked.method == "POST"
            && String::from_utf8_lossy(&asked.body).contains("refresh_token=later")
        {
            Reply::body(200, r#"{"access_token":"good"}"#)
        } else {
            Reply::body(401, r#"{"details":"incorrect username or password"}"#)
        })
    });
    let registries = Registries::new(quick());
    run(async {
        let host = registry.host();
        manifest(&registries, &host, password()).await.unwrap();
        let asked = server.asked();
        assert_eq!(asked[0].path, "/token?service=reg&scope=repository:a/b:pull&account=me");
        assert!(registry.asked().iter().all(|asked| asked.header("authorization") != BASIC));
        let kept = registries.login(&host, &password()).await.unwrap().identity.unwrap();
        manifest(&registries, &host, Credentials::Identity(kept)).await.unwrap();
        manifest(&registries, &host, Credentials::Registry("good".into())).await.unwrap();
        let error = manifest(&registries, &host, Credentials::Anonymous).await.unwrap_err();
        assert_eq!(told(&error), "unauthorized: incorrect username or password");
    });
}

#[test]
fn i15_a_token_server_of_somebody_else_gets_nothing() {
    let (registry, thief) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let port = thief.host().rsplit(':').next().unwrap().to_owned();
    // Another name of this machine is another host.
    let realm = format!("http://localhost:{port}/token");
    registry.lie(move |_| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\"");
        Some(Reply::status(401).with("WWW-Authenticate", challenge))
    });
    let registries = Registries::new(quick());
    run(async {
        for who in [password(), Credentials::Identity("later".into())] {
            let error = manifest(&registries, &registry.host(), who).await.unwrap_err();
            assert!(matches!(error, RegistryError::Stranger { .. }), "{error}");
            let setting = format!(
                "\"registry-token-servers\": [\"{}=localhost:{port}\"] in daemon.json",
                registry.host()
            );
            assert!(told(&error).contains(&setting), "{error}");
        }
        assert!(registries.login(&registry.host(), &password()).await.is_err());
        assert!(thief.asked().is_empty());
        // Named by the administrator it is no stranger, for this registry.
        let named = format!("{}=localhost", registry.host());
        let other = format!("{}:1=localhost", registry.host().split(':').next().unwrap());
        for (named, times) in [(other, 0), (named, 1)] {
            let token_servers = vec![TokenServer::parse(&named).unwrap()];
            registries.configure(Settings { token_servers, ..quick() });
            manifest(&registries, &registry.host(), password()).await.unwrap_err();
            let asked = thief.asked();
            assert_eq!(asked.iter().filter(|asked| asked.header("authorization") == BASIC).count(), times);
        }
    });
}

#[test]
fn i14_a_redirect_takes_no_keys_along() {
    let (registry, other) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let digest = other.manifest("a/b", "1", media::MANIFEST, "{}");
    let to = format!("http://{}/v2/a/b/manifests/1", other.host());
    registry.lie(move |asked| {
        Some(if asked.header("authorization") == BASIC {
            Reply::status(307).with("Location", to.clone())
        } else {
            Reply::status(401).with("WWW-Authenticate", "Basic realm=x")
        })
    });
    let registries = Registries::new(quick());
    run(async {
        manifest(&registries, &registry.host(), password()).await.unwrap();
        let asked = other.asked();
        assert_eq!((asked.len(), asked[0].header("authorization")), (1, ""));
        drop(digest);
        // Without an end.
        registry.lie(|asked| Some(Reply::status(302).with("Location", format!("{}x", asked.path))));
        let error = told(&manifest(&registries, &registry.host(), Credentials::Anonymous).await.unwrap_err());
        assert!(error.contains("more than 10 redirects"), "{error}");
        registry.lie(|_| Some(Reply::status(302).with("Location", "file:///etc/passwd")));
        assert!(manifest(&registries, &registry.host(), Credentials::Anonymous).await.is_err());
    });
}
