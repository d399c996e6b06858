//! Registries through the libraries: a push with a password, what a name leads to, a pull with its progress.

use std::path::Path;

use bollard::auth::DockerCredentials;
use bollard::query_parameters as query;
use bollard::{ClientVersion, Docker};
use futures_util::TryStreamExt as _;

use crate::Test;
use crate::libraries::{bounded, installed, python, source, succeeds};
use crate::registries::{DebianRegistry, PASSWORD, USER};
use crate::world::World;

pub(crate) const ALL: &[Test] = &[
    ("docker-py pushes and pulls with a password", docker_py),
    ("dockerode pushes and pulls with a password", dockerode),
    ("bollard pushes and pulls with a password", bollard),
];

/// The oldest, the first with `/distribution` in wide use, and the newest.
const VERSIONS: [&str; 3] = ["1.24", "1.41", "1.56"];

/// An image with a layer of its own under a name in the registry.
fn image(world: &World, registry: &DebianRegistry, label: &str) -> String {
    let mut noise = vec![0; 1 << 20];
    let mut state: u32 = label.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    noise.iter_mut().for_each(|byte| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    });
    let layer = havre_testkit::Layer::new().file("own", 0o644, &noise).unwrap().finish().unwrap();
    let name = registry.name(&format!("clients/{label}:1"));
    let imported = world.clients()[0].with_input(&["import", "-", &name], &layer);
    assert_eq!(imported.code, 0, "{imported:?}");
    name
}

fn docker_py(world: &World) {
    let (Some(python), Some(registry)) = (python(), DebianRegistry::locked()) else { return };
    for version in VERSIONS {
        let name = image(world, &registry, &format!("py-{version}"));
        let mut command = bounded(&python, "120");
        command.env("DOCKER_CONFIG", "/nonexistent").arg(source("registry.py"));
        command.args([&format!("unix://{}", world.socket()), version, &name, USER, PASSWORD]);
        succeeds(command);
    }
}

fn dockerode(world: &World) {
    let (Some(modules), Some(registry)) = (installed("node"), DebianRegistry::locked()) else { return };
    for version in VERSIONS {
        let name = image(world, &registry, &format!("node-{version}"));
        let mut command = bounded(Path::new("node"), "120");
        command.arg(source("registry.mjs"));
        command.args([world.socket(), &format!("v{version}"), &name, USER, PASSWORD]).arg(&modules);
        succeeds(command);
    }
}

fn bollard(world: &World) {
    let Some(registry) = DebianRegistry::locked() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for minor in [24, 44, 52] {
        let name = image(world, &registry, &format!("rust-{minor}"));
        let version = ClientVersion { major_version: 1, minor_version: minor };
        let docker = Docker::connect_with_unix(world.socket(), 60, &version).expect("a client");
        let went = runtime.block_on(there_and_back(&docker, minor, &name));
        went.unwrap_or_else(|error| panic!("API 1.{minor}: {error}"));
    }
}

async fn there_and_back(docker: &Docker, minor: usize, name: &str) -> Result<(), bollard::errors::Error> {
    let keys = || DockerCredentials {
        username: Some(USER.into()),
        password: Some(PASSWORD.into()),
        ..DockerCredentials::default()
    };
    let (repository, tag) = name.rsplit_once(':').expect("a tag");
    let push = |keys| {
        let options = query::PushImageOptionsBuilder::default().tag(tag).build();
        docker.push_image(repository, Some(options), keys).try_collect::<Vec<_>>()
    };
    let refused = push(None).await.map(|said| format!("{said:?}")).unwrap_or_else(|error| error.to_string());
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    let said = push(Some(keys())).await?;
    assert!(said.iter().all(|line| line.error_detail.is_none()), "{said:?}");
    if minor >= 30 {
        let there = docker.inspect_registry_image(name, Some(keys())).await?;
        assert!(there.descriptor.digest.is_some_and(|digest| digest.starts_with("sha256:")));
    }
    let id = docker.inspect_image(name).await?.id.expect("an id");
    let force = || Some(query::RemoveImageOptionsBuilder::default().force(true).build());
    docker.remove_image(&id, force(), None).await?;
    let options = query::CreateImageOptionsBuilder::default().from_image(repository).tag(tag).build();
    let said: Vec<_> = docker.create_image(Some(options), None, Some(keys())).try_collect().await?;
    let has = |status: &str| said.iter().any(|line| line.status.as_deref() == Some(status));
    assert!(has("Pulling fs layer") && has("Pull complete"), "{said:?}");
    let total = |line: &bollard::models::CreateImageInfo| line.progress_detail.as_ref()?.total;
    assert!(said.iter().filter_map(total).any(|total| total > 0), "{said:?}");
    assert_eq!(docker.inspect_image(name).await?.id.as_deref(), Some(id.as_str()));
    docker.remove_image(&id, force(), None).await?;
    Ok(())
}
