//! `/exec/...`.

use havre_api::exec::{ExecCreateRequest, ExecInspect, ExecStartRequest, ProcessConfig};
use havre_api::message::IdResponse;
use havre_engine::AttachSpec;
use havre_engine::spec::ExecSpec;
use hyper::StatusCode;

use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;
use crate::routes::streams::no_socket;
use crate::{Server, convert, hijack};

type Handled = Result<Answer, Refusal>;

pub(crate) async fn create(server: &Server, call: Call, id: &str) -> Handled {
    let asked: ExecCreateRequest = body::read_json(call.request.into_body(), false).await?;
    let env = asked.env.unwrap_or_default();
    let command = asked.cmd.unwrap_or_default();
    convert::check_env("Env", &env)?;
    convert::check_words("Cmd", &command)?;
    convert::check_working_dir(&asked.working_dir)?;
    let spec = ExecSpec {
        command,
        env,
        user: asked.user,
        working_dir: asked.working_dir,
        tty: asked.tty,
        attach_stdin: asked.attach_stdin,
        attach_stdout: asked.attach_stdout,
        attach_stderr: asked.attach_stderr,
        privileged: asked.privileged,
        detach_keys: Some(convert::detach_keys(&asked.detach_keys)?),
        console: convert::console(asked.console_size.unwrap_or_default()),
    };
    let exec = server.engine.containers.exec_create(id, spec).await?;
    Ok(body::json_bytes(StatusCode::CREATED, &IdResponse { id: exec.to_string() }))
}

pub(crate) async fn start(server: &Server, call: Call, id: &str) -> Handled {
    let Call { version, mut request, .. } = call;
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, incoming) = request.into_parts();
    let asked: ExecStartRequest = body::read_json(incoming, true).await?;
    let console = convert::console(asked.console_size.unwrap_or_default());
    if asked.detach {
        server.engine.containers.exec_start(id, None, console).await?;
        return Ok(body::empty(StatusCode::OK));
    }
    let (_, _, exec) = server.engine.containers.exec(id).await?;
    if exec.running || exec.exit_code.is_some() {
        return Err(havre_engine::EngineError::State(format!("exec command {id} has already run")).into());
    }
    let terminal = exec.spec.tty;
    let attach = AttachSpec {
        stdin: exec.spec.attach_stdin,
        stdout: exec.spec.attach_stdout,
        stderr: exec.spec.attach_stderr,
        multiplexed: !terminal,
        detach_keys: exec.spec.detach_keys.unwrap_or_default(),
    };
    let (answer, client) = hijack::promise(&parts, upgrade, None, version, terminal).map_err(no_socket)?;
    let (server, id) = (server.clone(), id.to_owned());
    tokio::spawn(async move {
        // A process may say something before its client has read that it may.
        let taken = match client.descriptor(&server).await {
            Ok(client) => crate::routes::streams::until_head_is_read(client).await,
            Err(error) => Err(error),
        };
        let client = match taken {
            Ok(client) => client,
            Err(error) => return tracing::debug!(%error, "a client that wanted a stream did not take it"),
        };
        // A copy, to tell the client if the process cannot be started.
        let Ok(copy) = client.try_clone() else { return };
        let started = server.engine.containers.exec_start(&id, Some((attach, client)), console).await;
        if let Err(error) = started {
            let text = format!("{}\r\n", havre_base::chain(&error));
            crate::routes::streams::tell(copy, text.as_bytes(), !terminal).await;
        }
    });
    Ok(answer)
}

pub(crate) async fn resize(server: &Server, call: &Call, id: &str) -> Handled {
    let (rows, columns) = super::containers::size(call)?;
    server.engine.containers.exec_resize(id, rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn inspect(server: &Server, id: &str) -> Handled {
    let (id, container, exec) = server.engine.containers.exec(id).await?;
    let (entrypoint, arguments) = exec
        .spec
        .command
        .split_first()
        .map(|(first, rest)| (first.clone(), rest.to_vec()))
        .unwrap_or_default();
    Ok(body::json(&ExecInspect {
        id: id.to_string(),
        running: exec.running,
        exit_code: exec.exit_code.map(i64::from),
        process_config: ProcessConfig {
            tty: exec.spec.tty,
            entrypoint,
            arguments,
            privileged: Some(exec.spec.privileged),
            user: exec.spec.user,
        },
        open_stdin: exec.spec.attach_stdin,
        open_stderr: exec.spec.attach_stderr,
        open_stdout: exec.spec.attach_stdout,
        can_remove: !exec.running && exec.exit_code.is_some(),
        container_id: container.id().to_string(),
        detach_keys: String::new(),
        pid: i64::from(exec.pid),
    }))
}
