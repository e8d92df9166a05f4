//! Where log lines go and which of them: standard error, as text or JSON, filtered by module.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that overrules the configured filter for one run.
pub const FILTER_VARIABLE: &str = "EVERYWRITE_LOG";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a filter.
    #[error(
        "\"{filter}\" is not a log filter: {source}; \
         write a level such as info, or info,everywrite_node::replay=debug"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Why it is not one.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Set up twice in one process.
    #[error("set up logging: it is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// Neither of the two formats.
    #[error("\"{0}\" is not a log format: write text or json")]
    Format(String),
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(Error::Format(text.to_owned())),
        }
    }
}

/// Sends every log line of the process to standard error, once, from `main`. `filter` is what the
/// configuration says; the variable `EVERYWRITE_LOG` overrules it.
///
/// # Errors
/// A filter that cannot be read, or logging that is set up already.
pub fn init(format: Format, filter: &str) -> Result<(), Error> {
    let overruled = std::env::var(FILTER_VARIABLE).ok();
    let filter = parse(overruled.as_deref().unwrap_or(filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let outcome = match format {
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .try_init(),
        Format::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .finish()
            .try_init(),
    };
    outcome.map_err(Error::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(filter).map_err(|source| Error::Filter {
        filter: filter.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_says_what_a_good_one_is() {
        assert!(parse("info,everywrite_node::replay=debug").is_ok());
        let error = parse("info,everywrite_node=loud").expect_err("no such level");
        assert!(error.to_string().contains("write a level"), "{error}");
        let error = "xml".parse::<Format>().expect_err("no such format");
        assert_eq!(
            error.to_string(),
            "\"xml\" is not a log format: write text or json"
        );
    }
}
