//! The rules of the design, each of which can be taken away to show that it is needed.

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A stamp is above the last local one and above every replayed one.
    Hybrid,
    /// A row that loses a unique value is removed everywhere by a delete that travels.
    Travel,
    /// A group is replayed as a set.
    Set,
    /// A decided delete does not leave if a newer write has overtaken it, known or forgotten.
    Current,
    /// Only what every member has replayed, and what was committed before that, is forgotten.
    Stable,
    /// Replay decides only against local writes whose stamps are durable.
    Durable,
    /// A key that is being replayed for one origin holds the groups of the others back.
    Flight,
    /// What a transaction claims without having surely seen it is no base of its updates.
    Base,
    /// What a site claims without having surely replayed it is not stable: it may be lost in a
    /// crash and replayed again, and then the row is asked for once more.
    Sure,
    /// A row that was written over a local delete not yet captured is removed again.
    Repair,
    /// After a restart no look is taken for a write that is older than what the journals have let
    /// go.
    Looked,
    /// What landed behind the captured point is not forgotten, even if stable.
    Captured,
    /// A decided delete is taken back when its transaction is rolled back.
    Undo,
    /// Whether a decided delete is overtaken is asked at capture, not when it leaves the outbox.
    AtCapture,
    /// A group is split if the index knows a version between its writes of one key.
    Split,
    /// An outbox row stays until the journal has its delete.
    Keep,
    /// A value that the stream omits is taken only from the very version. If that is replaced where
    /// it is asked for, there is no row until what replaced it comes.
    Very,
    /// After a restart, until the claims of the last transaction are applied again, decided
    /// deletes stay.
    Tail,
    /// After a restart the clock is set above all that the journals have.
    Restore,
    /// A write stands at least as high as what it replaced knowingly.
    Inherit,
    /// Between writes under different policies the newer policy's stays.
    Epoch,
    /// A write replaces what it claims to have seen, also where that stands higher.
    Known,
}

impl Rule {
    pub(crate) const ALL: [Rule; 22] = [
        Rule::Hybrid,
        Rule::Travel,
        Rule::Set,
        Rule::Current,
        Rule::Stable,
        Rule::Durable,
        Rule::Flight,
        Rule::Base,
        Rule::Sure,
        Rule::Repair,
        Rule::Looked,
        Rule::Captured,
        Rule::Undo,
        Rule::AtCapture,
        Rule::Split,
        Rule::Keep,
        Rule::Very,
        Rule::Tail,
        Rule::Restore,
        Rule::Inherit,
        Rule::Epoch,
        Rule::Known,
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

    /// Whether stamps are above what they have seen, so that the crate's assertion of it holds.
    pub(crate) fn stamps_are_above(self) -> bool {
        self.has(Rule::Restore)
    }
}
