//! What of the design the model's shells do, each of which can be taken away to show that it is needed. What the
//! real code does is broken by patches instead: `tests/mutations`.

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A row that loses a unique value is removed everywhere by a delete that travels.
    Travel,
    /// A group is replayed as a set.
    Set,
    /// Only what every member has replayed, and what was committed before that, is forgotten.
    Stable,
    /// Replay decides only against local writes whose stamps are durable.
    Durable,
    /// What is decided waits for the groups of other origins that were on their way unlooked at.
    Flight,
    /// What a transaction claims without having surely seen it is no base of its updates.
    Base,
    /// A row that was written over a local delete not yet captured is removed again.
    Repair,
    /// After a restart no look is taken for a write that is older than what the journals have let
    /// go.
    Looked,
    /// What landed behind the captured point is not forgotten, even if stable.
    Captured,
    /// A decided delete is taken back when its transaction is rolled back.
    Undo,
    /// A group is split if the index knows a version between its writes of one key.
    Split,
    /// A value that the stream omits is taken only from the very version. If that is replaced where
    /// it is asked for, there is no row until what replaced it comes.
    Very,
}

impl Rule {
    pub(crate) const ALL: [Rule; 12] = [
        Rule::Travel,
        Rule::Set,
        Rule::Stable,
        Rule::Durable,
        Rule::Flight,
        Rule::Base,
        Rule::Repair,
        Rule::Looked,
        Rule::Captured,
        Rule::Undo,
        Rule::Split,
        Rule::Very,
    ];
}

/// The rules that are on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    without: Option<Rule>,
}

impl Rules {
    pub(crate) const fn all() -> Self {
        Rules { without: None }
    }

    /// All, or without the one that `EVERYWRITE_WITHOUT` names.
    pub(crate) fn asked() -> Self {
        let asked = std::env::var("EVERYWRITE_WITHOUT").ok();
        let without = asked.filter(|name| !name.is_empty()).map(|name| {
            let named = |rule: &Rule| format!("{rule:?}") == name;
            let rule = Rule::ALL.into_iter().find(named);
            rule.unwrap_or_else(|| panic!("there is no rule {name}"))
        });
        Rules { without }
    }

    pub(crate) const fn without(rule: Rule) -> Self {
        Rules {
            without: Some(rule),
        }
    }

    pub(crate) fn complete(self) -> bool {
        self.without.is_none()
    }

    pub(crate) fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
