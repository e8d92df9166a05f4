//! Values that the stream leaves out, fetched from a site that has the row.

use bytes::Bytes;
use everywrite_conflict::Position;
use futures_util::future::BoxFuture;

use super::Error;
use super::image::Image;
use super::mapping::Mapping;

/// Values of a row's columns.
pub type Values = Vec<Option<Bytes>>;

/// Where missing values come from.
pub trait Toast: Send + Sync {
    /// The values of these columns of the row with the key of `key`, at a site that has replayed
    /// `position`: the row there is that version, or a later one that is on its way here too.
    /// `None`: there is no such row any more.
    fn fetch<'a>(
        &'a self,
        position: Position,
        mapping: &'a Mapping,
        key: &'a Image,
        columns: &'a [usize],
    ) -> BoxFuture<'a, Result<Option<Values>, Error>>;
}
