//! bollard: the Rust client library, in the versions it can speak.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ContainerUpdateBody, HostConfig};
use bollard::query_parameters as query;
use bollard::{ClientVersion, Docker};
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::Test;
use crate::world::World;

pub(crate) const ALL: &[Test] = &[("bollard lives a container's life in API versions old and new", bollard)];

fn bollard(world: &World) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for minor in [24, 40, 44, 52] {
        let version = ClientVersion { major_version: 1, minor_version: minor };
        let docker = Docker::connect_with_unix(world.socket(), 60, &version).expect("a client");
        runtime.block_on(life(&docker, minor)).unwrap_or_else(|error| panic!("API 1.{minor}: {error}"));
    }
}

/// All text of a stream of frames.
async fn text(
    stream: impl futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>>,
) -> Result<String, bollard::errors::Error> {
    let parts: Vec<LogOutput> = stream.try_collect().await?;
    Ok(parts.iter().map(ToString::to_string).collect())
}

fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[expect(clippy::too_many_lines, reason = "one life from its begin to its end")]
async fn life(docker: &Docker, minor: usize) -> Result<(), bollard::errors::Error> {
    assert_eq!(docker.ping().await?, "OK");
    assert_eq!(docker.version().await?.os.as_deref(), Some("linux"));
    let label = format!("bollard-{minor}");
    let filters = HashMap::from([("label".to_owned(), vec![format!("clients={label}")])]);
    let events = docker.events(Some(query::EventsOptions {
        filters: Some(filters.clone()),
        ..query::EventsOptions::default()
    }));
    let actions = tokio::task::spawn(async move {
        let mut events = std::pin::pin!(events);
        let mut seen = Vec::new();
        while let Some(Ok(event)) = events.next().await {
            let action = event.action.unwrap_or_default();
            let last = action == "destroy";
            seen.push(action);
            if last {
                break;
            }
        }
        seen
    });
    // A request that is answered proves that the one before it arrived: events are heard from here on.
    docker.info().await?;

    let script = "echo first; while read line; do echo got $line; done; exit 6";
    let body = ContainerCreateBody {
        image: Some("e2e/busybox".into()),
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        labels: Some(HashMap::from([("clients".into(), label.clone()), ("e2e".into(), String::new())])),
        open_stdin: Some(true),
        stdin_once: Some(true),
        attach_stdin: Some(true),
        host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let named = query::CreateContainerOptionsBuilder::default().name(&label).build();
    let id = docker.create_container(Some(named), body).await?.id;
    let attached = docker
        .attach_container(
            &id,
            Some(
                query::AttachContainerOptionsBuilder::default()
                    .stdin(true)
                    .stdout(true)
                    .stderr(true)
                    .stream(true)
                    .build(),
            ),
        )
        .await?;
    docker.start_container(&id, None::<query::StartContainerOptions>).await?;
    let shown = docker.inspect_container(&id, None::<query::InspectContainerOptions>).await?;
    assert_eq!(shown.state.and_then(|state| state.running), Some(true));
    let listed = docker
        .list_containers(Some(query::ListContainersOptions {
            filters: Some(filters.clone()),
            ..query::ListContainersOptions::default()
        }))
        .await?;
    assert_eq!(listed.len(), 1);
    let missing = docker.inspect_container("nobody", None::<query::InspectContainerOptions>).await;
    assert_eq!(status(&missing.unwrap_err()), Some(404));

    let exec = CreateExecOptions {
        cmd: Some(vec!["sh", "-c", "echo out; echo err >&2; exit 4"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(&id, exec).await?.id;
    let StartExecResults::Attached { output, .. } = docker.start_exec(&exec, None).await? else {
        panic!("the exec is attached");
    };
    let said = text(output).await?;
    assert!(said.contains("out\n") && said.contains("err\n"), "{said}");
    assert_eq!(docker.inspect_exec(&exec).await?.exit_code, Some(4));

    let mut tar = havre_testkit::Layer::new();
    tar = tar.file("from-rust", 0o600, b"bytes").expect("a layer");
    let tar = tar.finish().expect("a layer");
    let to = query::UploadToContainerOptionsBuilder::default().path("/tmp").build();
    docker.upload_to_container(&id, Some(to), bollard::body_full(tar.into())).await?;
    let from = query::DownloadFromContainerOptionsBuilder::default().path("/tmp/from-rust").build();
    let back = docker.download_from_container(&id, Some(from));
    let back: Vec<_> = back.try_collect().await?;
    assert!(back.concat().windows(5).any(|part| part == b"bytes"));
    let changes = docker.container_changes(&id).await?.unwrap_or_default();
    assert!(changes.iter().any(|change| change.path == "/tmp/from-rust"), "{changes:?}");

    let top = docker.top_processes(&id, None::<query::TopOptions>).await?;
    assert!(top.titles.unwrap_or_default().contains(&"PID".to_owned()));
    let once = query::StatsOptionsBuilder::default().stream(false).build();
    let stats: Vec<_> = docker.stats(&id, Some(once)).try_collect().await?;
    assert!(stats.first().and_then(|one| one.memory_stats.as_ref()?.usage).is_some_and(|usage| usage > 0));
    let update = ContainerUpdateBody { cpu_shares: Some(512), ..ContainerUpdateBody::default() };
    docker.update_container(&id, update).await?;
    docker.pause_container(&id).await?;
    docker.unpause_container(&id).await?;

    let mut input = attached.input;
    input.write_all(b"one\n").await.expect("the container reads");
    input.shutdown().await.expect("the input ends");
    let output = text(attached.output).await?;
    assert!(output.contains("first\n") && output.contains("got one\n"), "{output}");
    let mut waited = Box::pin(docker.wait_container(&id, None::<query::WaitContainerOptions>));
    match waited.next().await {
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => assert_eq!(code, 6),
        other => panic!("it exits with 6: {other:?}"),
    }
    let logs = query::LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    assert!(text(docker.logs(&id, Some(logs))).await?.contains("got one\n"));
    let force = query::RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&id, Some(force)).await?;
    let seen = actions.await.expect("the listener ends");
    for action in ["create", "attach", "start", "pause", "unpause", "update", "die", "destroy"] {
        assert!(seen.iter().any(|one| one == action), "{action} in {seen:?}");
    }
    Ok(())
}
