//! Rows in binary form as parameters of one statement.

use super::image::Image;
use super::mapping::Mapping;
use crate::pg::pgoutput::Cell;
use crate::pg::pipeline::{Array, Bind};

/// Columns of many rows as array parameters.
pub(super) struct Arrays(Vec<Array>);

impl Arrays {
    /// These columns of these rows.
    pub(super) fn of(mapping: &Mapping, wanted: &[usize], rows: &[&Image]) -> Self {
        let oid = |&i: &usize| mapping.columns.get(i).map_or(0, |c| c.type_oid);
        let mut columns: Vec<Array> = wanted
            .iter()
            .map(|i| Array::new(oid(i), rows.len()))
            .collect();
        let mut place = vec![usize::MAX; mapping.columns.len()];
        for (n, &i) in wanted.iter().enumerate() {
            if let Some(p) = place.get_mut(i) {
                *p = n;
            }
        }
        for row in rows {
            for (cell, &n) in row.tuple().iter().zip(&place) {
                let Some(column) = columns.get_mut(n) else {
                    continue;
                };
                match cell {
                    Cell::Binary(bytes) | Cell::Text(bytes) => column.push(Some(bytes)),
                    Cell::Null | Cell::Unchanged => column.push(None),
                }
            }
        }
        Arrays(columns)
    }

    /// Adds them to a statement.
    pub(super) fn bind(self, bind: Bind<'_>) -> Bind<'_> {
        self.0.into_iter().fold(bind, Bind::array)
    }
}
