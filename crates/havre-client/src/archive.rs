//! Requests about the files of containers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use havre_api::container::{Change, Config};
use havre_api::{IdResponse, PathStat};
use hyper::Method;

use crate::{Answer, Client, ClientError, Query, RequestBody};

const STAT: &str = "x-docker-container-path-stat";

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The image's name.
    pub repository: String,
    /// The image's tag.
    pub tag: String,
    /// By whom.
    pub author: String,
    /// A note for its history.
    pub comment: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Freeze the container meanwhile.
    pub pause: bool,
}

impl Client {
    /// What a path in a container names.
    pub async fn stat_path(&self, container: &str, path: &str) -> Result<PathStat, ClientError> {
        // A refusal of the version would have no body that names a better one.
        self.negotiate().await?;
        let query = Query::of("/containers/", container, "/archive").with("path", path);
        let answer = self.request(Method::HEAD, &query, None::<&()>).await;
        let answer = match answer {
            // An answer to HEAD has no body that could say why; the same question as GET has.
            Err(ClientError::Api { status, .. }) => {
                return match self.request(Method::GET, &query, None::<&()>).await {
                    Err(error) => Err(error),
                    Ok(_) => Err(ClientError::Api { status, message: format!("cannot look at {path}") }),
                };
            }
            other => other?,
        };
        let stat = stat_of(&answer)?;
        answer.bytes().await?;
        Ok(stat)
    }

    /// The archive of what a path in a container names.
    pub async fn archive(&self, container: &str, path: &str) -> Result<(PathStat, Answer<'_>), ClientError> {
        let query = Query::of("/containers/", container, "/archive").with("path", path);
        let answer = self.request(Method::GET, &query, None::<&()>).await?;
        Ok((stat_of(&answer)?, answer))
    }

    /// Unpacks an archive into a folder of a container. A folder is never replaced by something else, nor the
    /// other way round.
    pub async fn put_archive(
        &self,
        container: &str,
        path: &str,
        as_user: bool,
        archive: RequestBody,
    ) -> Result<(), ClientError> {
        let query = Query::of("/containers/", container, "/archive")
            .with("path", path)
            .with("noOverwriteDirNonDir", "true");
        let query = if as_user { query.with("copyUIDGID", "true") } else { query };
        self.upload(Method::PUT, &query, archive).await?.bytes().await.map(drop)
    }

    /// What a container changed.
    pub async fn changes(&self, container: &str) -> Result<Vec<Change>, ClientError> {
        let changes: Option<Vec<Change>> =
            self.get(&Query::of("/containers/", container, "/changes")).await?;
        Ok(changes.unwrap_or_default())
    }

    /// The archive of a container's root file system.
    pub async fn export(&self, container: &str) -> Result<Answer<'_>, ClientError> {
        self.request(Method::GET, &Query::of("/containers/", container, "/export"), None::<&()>).await
    }

    /// Makes an image of what a container changed; its id.
    pub async fn commit(&self, container: &str, options: &CommitOptions) -> Result<String, ClientError> {
        let mut query = Query::new("/commit")
            .with("container", container)
            .with_some("repo", &options.repository)
            .with_some("tag", &options.tag)
            .with_some("author", &options.author)
            .with_some("comment", &options.comment);
        for change in &options.changes {
            query = query.with("changes", change);
        }
        if !options.pause {
            query = query.with("pause", "0");
        }
        let answer: IdResponse = self.json(Method::POST, &query, None::<&Config>).await?;
        Ok(answer.id)
    }
}

fn stat_of(answer: &Answer<'_>) -> Result<PathStat, ClientError> {
    let text = answer.header(STAT).unwrap_or_default();
    // What is no base64 is no document either.
    let text = BASE64.decode(text).unwrap_or_default();
    serde_json::from_slice(&text).map_err(ClientError::Decode)
}
