//! Requests about images.

use havre_api::image::{DeleteResponse, HistoryItem, ImageInspect, ImageSummary, PruneResponse};
use havre_api::{Filters, JsonMessage};
use hyper::Method;

use crate::{Answer, Client, ClientError, JsonLines, Query, RequestBody};

/// A stream of progress messages.
pub struct Progress<'a> {
    answer: Answer<'a>,
    lines: JsonLines,
}

impl Progress<'_> {
    /// The messages that have arrived, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<JsonMessage>>, ClientError> {
        match self.answer.chunk().await? {
            Some(piece) => self.lines.push(&piece).map(Some).map_err(ClientError::Decode),
            None => Ok(None),
        }
    }
}

/// A parameter once for each value.
fn with_all(query: Query, name: &str, values: &[String]) -> Query {
    values.iter().fold(query, |query, value| query.with(name, value))
}

impl Client {
    /// Lists images.
    pub async fn images(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>, ClientError> {
        let mut query = Query::new("/images/json").flag("all", all);
        if !filters.is_empty() {
            query = query.with("filters", &filters.encode());
        }
        self.get(&query).await
    }

    /// Describes an image.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, ClientError> {
        self.get(&Query::of("/images/", name, "/json")).await
    }

    /// The steps that made an image.
    pub async fn history(&self, name: &str, platforms: &[String]) -> Result<Vec<HistoryItem>, ClientError> {
        self.get(&with_all(Query::of("/images/", name, "/history"), "platform", platforms)).await
    }

    /// Gives an image one more name.
    pub async fn tag(&self, source: &str, repository: &str, tag: &str) -> Result<(), ClientError> {
        let query = Query::of("/images/", source, "/tag").with("repo", repository).with_some("tag", tag);
        self.call(Method::POST, &query).await
    }

    /// Removes a name, and the image when it was the last.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
        platforms: &[String],
    ) -> Result<Vec<DeleteResponse>, ClientError> {
        let query = Query::of("/images/", name, "").flag("force", force).flag("noprune", no_prune);
        let query = with_all(query, "platforms", platforms);
        self.json(Method::DELETE, &query, None::<&()>).await
    }

    /// Loads an archive of images.
    pub async fn load(
        &self,
        quiet: bool,
        platforms: &[String],
        archive: RequestBody,
    ) -> Result<Progress<'_>, ClientError> {
        let query = with_all(Query::new("/images/load").flag("quiet", quiet), "platform", platforms);
        let answer = self.upload(Method::POST, &query, archive).await?;
        Ok(Progress { answer, lines: JsonLines::default() })
    }

    /// Imports a root filesystem; `source` is `-` for `archive`, or an address the daemon fetches.
    pub async fn import(&self, query: &Query, archive: RequestBody) -> Result<Progress<'_>, ClientError> {
        let answer = self.upload(Method::POST, query, archive).await?;
        Ok(Progress { answer, lines: JsonLines::default() })
    }

    /// Fetches an image.
    pub async fn pull(&self, query: &Query) -> Result<Progress<'_>, ClientError> {
        let answer = self.request(Method::POST, query, None::<&()>).await?;
        Ok(Progress { answer, lines: JsonLines::default() })
    }

    /// The archive of some images.
    pub async fn save(&self, names: &[String], platforms: &[String]) -> Result<Answer<'_>, ClientError> {
        let query = with_all(Query::new("/images/get"), "names", names);
        let query = with_all(query, "platform", platforms);
        self.request(Method::GET, &query, None::<&()>).await
    }

    /// Removes images that nothing uses.
    pub async fn prune_images(&self, filters: &Filters) -> Result<PruneResponse, ClientError> {
        let query = Query::new("/images/prune").with("filters", &filters.encode());
        self.json(Method::POST, &query, None::<&()>).await
    }
}
