//! Kinds of clusters: calm ones for the fast way, torn ones, dying daemons, policies, storms.

use crate::world::Shape;

const fn shape(
    sites: usize,
    skew: i64,
    steps: usize,
    keys: usize,
    values: usize,
    crashes: u64,
    rests: u64,
) -> Shape {
    Shape {
        sites,
        skew,
        steps,
        keys,
        values,
        crashes,
        rests,
        policies: 0,
        cuts: 0,
        jumps: 0,
        away: 0,
        spills: 0,
        slow: 0,
        late: 0,
        readers: 0,
        alone: 0,
        unflushed: 0,
        brisk: 0,
        whole: false,
        settles: 0,
    }
}

/// With a network that is cut so often, clocks that jump so far, and sites that are away for so long.
const fn stormy(shape: Shape, cuts: u64, jumps: i64, away: usize) -> Shape {
    Shape {
        cuts,
        jumps,
        away,
        ..shape
    }
}

/// With entries that go to files so often.
const fn spills(shape: Shape, spills: u64) -> Shape {
    Shape { spills, ..shape }
}

/// With servers that so often do not come to what they were sent.
const fn slow(shape: Shape, slow: u64) -> Shape {
    Shape { slow, ..shape }
}

/// With capture that so often does not come to what was committed.
const fn late(shape: Shape, late: u64) -> Shape {
    Shape { late, ..shape }
}

/// With so many sites that never write, and servers that so often crash alone and with commits that are not flushed.
const fn forgetful(shape: Shape, readers: usize, alone: u64, unflushed: u64) -> Shape {
    Shape {
        readers,
        alone,
        unflushed,
        ..shape
    }
}

/// With what goes all the way to others so often.
const fn brisk(shape: Shape, brisk: u64) -> Shape {
    Shape { brisk, ..shape }
}

/// Of rows that no stream omits anything of.
const fn whole(shape: Shape) -> Shape {
    Shape {
        whole: true,
        ..shape
    }
}

/// With outboxes that so often wait until all else is settled.
const fn settles(shape: Shape, settles: u64) -> Shape {
    Shape { settles, ..shape }
}

/// With policies that are set so often.
const fn policies(shape: Shape, policies: u64) -> Shape {
    Shape { policies, ..shape }
}

pub(crate) const SHAPES: [Shape; 46] = [
    shape(2, 0, 250, 4, 3, 0, 0),
    shape(2, 30, 400, 4, 3, 1, 10),
    shape(3, 15, 400, 5, 4, 1, 10),
    shape(4, 50, 700, 6, 4, 1, 0),
    shape(7, 50, 1200, 8, 6, 1, 0),
    // Calm enough for the fast way.
    shape(2, 20, 400, 8, 8, 1, 80),
    shape(3, 40, 600, 12, 20, 1, 80),
    // Daemons that keep dying.
    shape(2, 30, 400, 5, 4, 5, 30),
    shape(3, 30, 500, 6, 5, 4, 40),
    // With policies: calm, torn, many sites, dying daemons, many switches.
    policies(shape(3, 15, 400, 5, 4, 0, 10), 1),
    policies(shape(3, 40, 600, 5, 4, 1, 30), 1),
    policies(shape(5, 50, 900, 6, 4, 1, 10), 1),
    policies(shape(2, 30, 400, 4, 4, 4, 30), 2),
    policies(shape(3, 15, 400, 3, 3, 1, 40), 8),
    // Cut in one direction, between pairs and around one site.
    stormy(shape(2, 20, 400, 4, 3, 1, 10), 3, 0, 0),
    stormy(shape(6, 30, 1000, 6, 5, 2, 5), 2, 0, 0),
    // Clocks that jump.
    stormy(shape(4, 30, 600, 5, 4, 2, 20), 0, 400, 0),
    // Somebody is away for long.
    stormy(shape(3, 20, 900, 5, 5, 1, 10), 0, 50, 250),
    // All of it, with policies too.
    stormy(shape(4, 50, 800, 5, 4, 3, 10), 2, 300, 150),
    policies(stormy(shape(5, 40, 900, 5, 4, 2, 10), 2, 200, 200), 1),
    // Indexes that spill: somebody is away for long, at each step, calm, dying, torn, with policies.
    spills(stormy(shape(3, 20, 900, 5, 5, 1, 10), 0, 50, 250), 10),
    spills(stormy(shape(3, 20, 900, 12, 8, 1, 10), 0, 0, 250), 100),
    spills(shape(3, 40, 600, 12, 20, 1, 80), 60),
    spills(shape(2, 30, 400, 5, 4, 5, 30), 50),
    spills(stormy(shape(4, 50, 800, 5, 4, 3, 10), 2, 300, 150), 30),
    spills(
        policies(stormy(shape(5, 40, 900, 5, 4, 2, 10), 2, 200, 200), 1),
        30,
    ),
    // Groups that are on their way for long: calm, dying, and with keys that all write.
    slow(shape(3, 20, 700, 8, 30, 0, 80), 80),
    slow(shape(3, 20, 700, 6, 30, 3, 60), 70),
    slow(shape(4, 20, 900, 4, 30, 1, 60), 85),
    // Where much happens to a row while it is on its way. Capture is far behind, the daemons live, and die.
    brisk(late(slow(shape(2, 20, 200, 6, 30, 0, 80), 90), 95), 20),
    brisk(late(slow(shape(2, 0, 60, 4, 30, 0, 0), 80), 98), 30),
    whole(brisk(
        late(slow(shape(2, 20, 200, 3, 30, 4, 80), 90), 80),
        20,
    )),
    // Sites that only read, and do not flush; servers that crash alone.
    brisk(forgetful(shape(3, 20, 200, 8, 30, 0, 0), 2, 0, 10), 20),
    whole(READER),
    brisk(forgetful(shape(3, 20, 200, 6, 30, 2, 80), 1, 100, 50), 20),
    // Groups that are on their way for long, and rows that are written everywhere.
    brisk(slow(shape(4, 20, 200, 4, 30, 0, 80), 85), 20),
    brisk(shape(3, 20, 200, 4, 30, 0, 80), 20),
    // Unique values that are taken again, and daemons that die before it is captured who has lost them.
    whole(OPEN),
    whole(brisk(late(shape(3, 20, 150, 4, 2, 2, 0), 90), 30)),
    // The same with values that streams omit, and daemons that die while much is on its way.
    OPEN,
    READER,
    brisk(late(slow(shape(3, 20, 200, 4, 30, 4, 50), 80), 60), 20),
    // Daemons that die while capture is far behind, and find files as they start.
    spills(
        brisk(late(slow(shape(2, 20, 200, 8, 30, 4, 80), 80), 80), 20),
        20,
    ),
    spills(brisk(late(shape(3, 20, 200, 8, 30, 2, 80), 60), 30), 20),
    // Deletes of rows that have lost unique values, which leave when all else is settled, and forgotten.
    settles(brisk(shape(3, 20, 200, 6, 3, 0, 0), 20), 5),
    settles(shape(4, 20, 300, 6, 4, 1, 0), 3),
];

// Of runs that are kept, see `seeds`.
pub(crate) const THREE: Shape = brisk(slow(shape(3, 20, 200, 4, 30, 0, 80), 85), 20);
pub(crate) const READER: Shape = brisk(forgetful(shape(3, 20, 200, 8, 30, 1, 0), 1, 0, 50), 20);
pub(crate) const CRASHES: Shape = brisk(forgetful(shape(3, 20, 200, 6, 30, 2, 80), 1, 80, 50), 20);
pub(crate) const OPEN: Shape = brisk(late(shape(3, 20, 200, 6, 2, 3, 50), 85), 20);
pub(crate) const FILES: Shape = whole(spills(
    brisk(late(shape(3, 20, 200, 8, 30, 2, 80), 60), 30),
    20,
));
pub(crate) const DYING: Shape = whole(brisk(late(slow(shape(2, 20, 60, 3, 30, 4, 0), 90), 70), 30));
