//! Columns that are sets: what a write does to their elements.
//!
//! Most elements are of a few, which are put in and taken out again and again. Some belong to one write, and nobody
//! ever takes them out.

use super::writes::Elements;
use crate::random::Random;

/// So many elements come and go.
const FEW: u64 = 8;

/// Whether the column's elements have values: it is a jsonb object, and else an array.
pub(super) fn has_values(column: &str) -> bool {
    column == "attrs"
}

/// What a write of that tag changes in a set that it has looked at: at least one element.
pub(super) fn change(random: &mut Random, column: &str, found: &Elements, tag: &str) -> Elements {
    let mut changes = Elements::new();
    let value = if has_values(column) { tag } else { "" };
    if random.percent(8) {
        changes.insert(format!("n-{tag}"), Some(value.to_owned()));
    }
    for _ in 0..=random.below(2) {
        let element = format!("e{}", random.below(FEW));
        let there = found.get(&element).is_some_and(Option::is_some);
        let goes = there && (!has_values(column) || random.percent(50));
        changes.insert(element, (!goes).then(|| value.to_owned()));
    }
    changes
}

/// The elements of a row that is new.
pub(super) fn first(random: &mut Random, column: &str, tag: &str) -> Elements {
    change(random, column, &Elements::new(), tag)
}

/// As SQL: what the set becomes by these changes.
pub(super) fn changed(column: &str, changes: &Elements) -> String {
    let goes = changes.iter().filter(|(_, now)| now.is_none());
    let goes: Vec<&str> = goes.map(|(element, _)| element.as_str()).collect();
    let (goes, comes) = (goes.join(","), literal(column, changes));
    match has_values(column) {
        true => format!("{column} - '{{{goes}}}'::text[] || {comes}"),
        false => format!(
            "everywrite.as_set(array(select unnest({column}) except select unnest('{{{goes}}}'::text[])) || {comes})"
        ),
    }
}

/// As SQL: a set of what is there.
pub(super) fn literal(column: &str, elements: &Elements) -> String {
    let there = elements
        .iter()
        .filter_map(|(e, value)| Some((e, value.as_ref()?)));
    match has_values(column) {
        true => {
            let pairs: Vec<String> = there.map(|(e, v)| format!("\"{e}\": \"{v}\"")).collect();
            format!("'{{{}}}'::jsonb", pairs.join(", "))
        }
        false => {
            let names: Vec<&str> = there.map(|(e, _)| e.as_str()).collect();
            format!("everywrite.as_set('{{{}}}'::text[])", names.join(","))
        }
    }
}

/// As SQL: the set as it is [read](parse).
pub(super) fn read(column: &str) -> String {
    match has_values(column) {
        true => format!(
            "coalesce((select string_agg(key || '=' || value, ' ') from jsonb_each_text({column})), '')"
        ),
        false => format!("array_to_string({column}, ' ')"),
    }
}

/// A set that was read.
pub(super) fn parse(text: &str) -> Elements {
    let pairs = text
        .split(' ')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")));
    pairs
        .map(|(element, value)| (element.to_owned(), Some(value.to_owned())))
        .collect()
}
