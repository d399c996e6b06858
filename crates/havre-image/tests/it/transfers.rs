//! Pulls and pushes against a registry that may lie.

use std::sync::Arc;

use havre_image::{Credentials, PullEvent, PullSpec, PushSpec, Reports, Step};
use havre_oci::Reference;
use havre_testkit::hostile::RemoteImage;
use havre_testkit::registry::{FakeRegistry, Reply, digest};

use crate::{World, tar, world};

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn named(registry: &FakeRegistry, rest: &str) -> Reference {
    Reference::parse(&format!("{}/{rest}", registry.host())).unwrap()
}

/// Pulls, and returns what happened.
pub(crate) async fn pull(world: &World, reference: &Reference) -> Result<Vec<PullEvent>, String> {
    let (reports, mut events) = Reports::channel();
    let spec = PullSpec {
        reference: reference.clone(),
        all_tags: false,
        platform: None,
        credentials: Credentials::Anonymous,
    };
    let images = Arc::clone(&world.images);
    let work = tokio::spawn(async move { images.pull(&spec, &reports).await });
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    work.await.unwrap().map_err(|error| havre_base::chain(&error)).map(|()| seen)
}

pub(crate) async fn push(world: &World, reference: &Reference) -> Result<(), String> {
    push_with(world, reference, false).await
}

pub(crate) async fn push_with(world: &World, reference: &Reference, single: bool) -> Result<(), String> {
    let (reports, mut events) = Reports::channel();
    let spec = PushSpec {
        reference: reference.clone(),
        all_tags: false,
        platform: single.then(havre_oci::Platform::host),
        credentials: Credentials::Anonymous,
    };
    let images = Arc::clone(&world.images);
    let work = tokio::spawn(async move { images.push(&spec, &reports).await });
    while events.recv().await.is_some() {}
    work.await.unwrap().map_err(|error| havre_base::chain(&error))
}

pub(crate) fn two_layers() -> (RemoteImage, Vec<u8>) {
    let (one, two) = (tar(&[("one", b"1")]), tar(&[("two", &[2; 100_000])]));
    (RemoteImage::new().layer(&one).unwrap().plain(two.clone()), two)
}

#[test]
fn what_comes_goes_on_as_it_is() {
    let (registry, other) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    let manifest = two_layers().0.put(&registry, "a/b", "1").unwrap();
    let world = world();
    run(async {
        let events = pull(&world, &named(&registry, "a/b:1")).await.unwrap();
        assert!(matches!(events.last(), Some(PullEvent::End { newer: true, .. })), "{events:?}");
        let again = pull(&world, &named(&registry, "a/b:1")).await.unwrap();
        assert!(matches!(again.last(), Some(PullEvent::End { newer: false, .. })), "{again:?}");
    });
    let world = world.restarted();
    let name = named(&registry, "a/b:1").familiar();
    let digests = world.images.inspect(&name).unwrap().repo_digests;
    assert_eq!(digests, [format!("{}/a/b@{manifest}", registry.host())]);
    world.images.tag(&name, &named(&other, "c:2").familiar()).unwrap();
    world.images.tag(&name, &named(&registry, "c:2").familiar()).unwrap();
    run(async {
        push(&world, &named(&registry, "c:2")).await.unwrap();
        push(&world, &named(&other, "c:2")).await.unwrap();
    });
    // Where the layers are the manifest is the same; compressed by us it would be another.
    assert_eq!(digest(&registry.document("c", "2").unwrap()), manifest);
    assert!(other.document("c", "2").is_some());
}

#[test]
fn two_pulls_of_the_same_get_each_layer_once() {
    let registry = FakeRegistry::start().unwrap();
    let (image, layer) = two_layers();
    image.put(&registry, "a", "1").unwrap();
    let world = world();
    run(async {
        let name = named(&registry, "a:1");
        let (one, two) = tokio::join!(pull(&world, &name), pull(&world, &name));
        assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    });
    let wanted = digest(&layer);
    let times = registry.asked().iter().filter(|asked| asked.path.ends_with(&wanted)).count();
    assert_eq!(times, 1);
}

#[test]
fn a_pull_that_broke_off_goes_on() {
    let registry = FakeRegistry::start().unwrap();
    let (image, layer) = two_layers();
    image.put(&registry, "a", "1").unwrap();
    let (wanted, length) = (digest(&layer), layer.len());
    let (of, mut round) = (wanted.clone(), 0);
    registry.lie(move |asked| {
        if !asked.path.ends_with(&of) {
            return None;
        }
        round += 1;
        // Once it comes in part, and then not at all until it is given up.
        let cut = Some(if round == 1 { 50_000 } else { 0 });
        (round <= 6).then(|| match round {
            1 => Reply { cut, ..Reply::body(200, layer.clone()) },
            _ => Reply::status(503).with("Retry-After", "0"),
        })
    });
    let world = world();
    run(async {
        let name = named(&registry, "a:1");
        let error = pull(&world, &name).await.unwrap_err();
        assert!(error.contains("503"), "{error}");
        let partials = world.folder.path().join("content/partial");
        let kept: Vec<u64> = std::fs::read_dir(&partials)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert!(kept.contains(&50_000), "{kept:?}");
        drop(registry.asked());
        let events = pull(&world, &name).await.unwrap();
        assert!(events.iter().any(|event| matches!(event, PullEvent::Layer(_, Step::Complete))));
        let ranges: Vec<String> = registry
            .asked()
            .iter()
            .filter(|asked| asked.path.ends_with(&wanted))
            .map(|asked| asked.header("range").to_owned())
            .collect();
        assert_eq!(ranges, ["bytes=50000-".to_owned() + &(length - 1).to_string()]);
        assert_eq!(std::fs::read_dir(&partials).unwrap().count(), 0);
    });
}

#[test]
fn nothing_to_push_is_said_in_docker_s_words() {
    let registry = FakeRegistry::start().unwrap();
    let world = world();
    run(async {
        let name = named(&registry, "a:1");
        let error = push(&world, &name).await.unwrap_err();
        let repository = name.familiar_name();
        assert_eq!(error, format!("An image does not exist locally with the tag: {repository}"));
        two_layers().0.put(&registry, "a", "2").unwrap();
        pull(&world, &named(&registry, "a:2")).await.unwrap();
        assert_eq!(push(&world, &name).await.unwrap_err(), format!("tag does not exist: {repository}:1"));
    });
}
