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
    /// The values of these columns of the row with the key of `key` in the version that the
    /// transaction at `position` wrote. `None`: that version is no more at a site that has replayed
    /// it; a later one, or a delete, is on its way here too.
    fn fetch<'a>(
        &'a self,
        position: Position,
        mapping: &'a Mapping,
        key: &'a Image,
        columns: &'a [usize],
    ) -> BoxFuture<'a, Result<Option<Values>, Error>>;
}
