//! What can go wrong with images. The words are Docker's where Docker has words.

use std::io;

use havre_base::{Classify, ContainerId, ErrorKind};
use havre_oci::image::InvalidDocument;
use havre_oci::{Digest, InvalidReference, Platform};
use havre_store::StoreError;

/// An error of the image service.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image has this name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// More than one image's id begins so.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// The text is no reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A tag cannot have a digest.
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// A name that looks like a digest.
    #[error("refusing to create an ambiguous tag using digest algorithm as name")]
    TagLikeDigest,
    /// The last name of an image that a container uses.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its referenced image {}",
        container.short(), image.short()
    )]
    ReferenceInUse {
        /// As the user gave it.
        name: String,
        /// Who uses it.
        container: ContainerId,
        /// Which image.
        image: Digest,
    },
    /// The image cannot be removed, or only by force.
    #[error("conflict: unable to delete {} ({}) - {why}", image.short(), if *hard { "cannot be forced" } else { "must be forced" })]
    InUse {
        /// Which image.
        image: Digest,
        /// Whether force would not help.
        hard: bool,
        /// Whether it is a container that uses it.
        used: bool,
        /// Why.
        why: String,
    },
    /// The archive is not one of images.
    #[error("invalid archive: {0}")]
    Archive(String),
    /// A document in the archive.
    #[error("invalid archive: {name}")]
    Document {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: InvalidDocument,
    },
    /// The archive has nothing for this machine.
    #[error("image operating system \"{}\" cannot be used on this platform", .0.os)]
    Platform(Platform),
    /// An instruction of `--change`.
    #[error("{0}")]
    Change(String),
    /// A filter of a list.
    #[error("invalid filter '{0}'")]
    Filter(String),
    /// A filter's value.
    #[error("invalid filter '{name}={value}'")]
    FilterValue {
        /// The filter.
        name: String,
        /// Its value.
        value: String,
    },
    /// Our own program cannot be read for the embedded image.
    #[error("cannot read the program for the image hello")]
    Hello(#[source] io::Error),
    /// The receiver of an archive went away.
    #[error("cannot write the archive")]
    Save(#[source] io::Error),
    /// There is nothing to push.
    #[error("An image does not exist locally with the tag: {0}")]
    Absent(String),
    /// There is nothing to push under this tag.
    #[error("tag does not exist: {0}")]
    AbsentTag(String),
    /// A document from a registry.
    #[error("invalid document {name} from the registry")]
    Remote {
        /// Its digest.
        name: String,
        /// Why.
        #[source]
        source: InvalidDocument,
    },
    /// There is no such thing at the registry.
    #[error("{0}")]
    Missing(String),
    /// The registry does not let us.
    #[error("{0}")]
    Denied(String),
    /// The registry does not believe who we are. Not the kind of `Unauthorized`: at that, Docker's client asks for a
    /// password and tries again, also where nobody can answer.
    #[error("{0}")]
    Unproved(String),
    /// What the registry has is no image we can use.
    #[error("{0}")]
    Pull(String),
    /// The registry failed, refused, or lied.
    #[error(transparent)]
    Registry(#[from] havre_registry::RegistryError),
    /// The store failed, or refused what it was given.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<havre_store::ArchiveError> for ImageError {
    fn from(error: havre_store::ArchiveError) -> Self {
        Self::Store(error.into())
    }
}

impl Classify for ImageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::Absent(_) | Self::AbsentTag(_) | Self::Missing(_) | Self::Denied(_) => {
                ErrorKind::NotFound
            }
            Self::Ambiguous(_)
            | Self::Reference(_)
            | Self::TagWithDigest
            | Self::TagLikeDigest
            | Self::Archive(_)
            | Self::Document { .. }
            | Self::Platform(_)
            | Self::Remote { .. }
            | Self::Pull(_)
            | Self::Change(_)
            | Self::Filter(_)
            | Self::FilterValue { .. } => ErrorKind::InvalidParameter,
            Self::ReferenceInUse { .. } | Self::InUse { .. } => ErrorKind::Conflict,
            Self::Hello(_) | Self::Save(_) | Self::Unproved(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
            Self::Registry(error) => error.kind(),
        }
    }
}
