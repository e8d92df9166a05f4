use proptest::prelude::*;

use super::super::Error;
use super::*;

#[derive(Debug, Clone)]
enum Op {
    Shape,
    Transaction(usize),
    Large {
        parts: usize,
        size: usize,
        finished: bool,
    },
    Restart,
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Shape),
        6 => (0..1500usize).prop_map(Op::Transaction),
        2 => (0..5usize, 0..1500usize, any::<bool>())
            .prop_map(|(parts, size, finished)| Op::Large { parts, size, finished }),
        1 => Just(Op::Restart),
        1 => Just(Op::Release),
    ]
}

/// What a power failure or a bad disk does to the newest segment.
#[derive(Debug, Clone)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// Bytes that were never synced.
    Garbage(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        proptest::collection::vec(any::<u8>(), 1..100).prop_map(Damage::Garbage),
    ]
}

impl Damage {
    /// To the bytes behind `from`; true if there were any to damage.
    fn apply(&self, path: &Path, from: u64) -> bool {
        let mut content = std::fs::read(path).unwrap();
        let from = from as usize;
        let behind = content.len() - from;
        match self {
            Damage::Garbage(garbage) => content.extend(garbage),
            _ if behind == 0 => return false,
            Damage::Cut(at) => content.truncate(from + at.index(behind)),
            Damage::Flip(at, bits) => content[from + at.index(behind)] ^= bits,
        }
        std::fs::write(path, content).unwrap();
        true
    }
}

struct Run {
    dir: tempfile::TempDir,
    journal: Option<Journal>,
    maker: Maker,
    model: History,
    released: Lsn,
}

impl Run {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = Some(open(dir.path(), small()));
        Run {
            dir,
            journal,
            maker: Maker::default(),
            model: History::default(),
            released: Lsn::ZERO,
        }
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    async fn append(&mut self, frames: Bytes) {
        self.model.take(frames.clone());
        self.journal().append(frames).await.unwrap();
    }

    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Shape => {
                let frames = self.maker.shape();
                self.append(frames).await;
            }
            Op::Transaction(size) => {
                let frames = self.maker.transaction(*size);
                self.append(frames).await;
            }
            Op::Large {
                parts,
                size,
                finished,
            } => {
                for frames in self.maker.large(*parts, *size) {
                    self.append(frames).await;
                }
                if *finished {
                    let frames = self.maker.finish(*parts);
                    self.append(frames).await;
                }
            }
            Op::Restart => {
                self.journal = None;
                self.journal = Some(open(self.dir.path(), small()));
                self.model = self.model.finished();
                self.check().await;
            }
            Op::Release => {
                durable(self.journal(), self.maker.end).await;
                self.journal().release(self.maker.end, Stamp::MIN).unwrap();
                self.released = self.journal().first();
            }
        }
    }

    /// The journal holds the model.
    async fn check(&self) {
        let kept = self
            .model
            .transactions
            .iter()
            .filter(|(h, _)| h.position > self.released);
        let read = read_to_end(self.journal(), self.released).await;
        assert!(read.transactions.iter().eq(kept));
        assert_eq!(self.journal().end(), self.maker.end);
        let shapes: BTreeMap<_, _> = self.journal().shapes().into_iter().collect();
        assert_eq!(shapes, self.model.shapes);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_keeps_everything(ops in proptest::collection::vec(op(), 0..40)) {
        block_on(async {
            let mut run = Run::new();
            for op in &ops {
                run.apply(op).await;
            }
            run.apply(&Op::Transaction(1)).await; // durable, and so is all before it
            durable(run.journal(), run.maker.end).await;
            run.check().await;
            run.apply(&Op::Restart).await;
        });
    }

    /// A power failure: what was synced is there, of the rest some prefix, and nothing else.
    #[test]
    fn a_torn_tail_costs_only_what_was_not_durable(
        before in proptest::collection::vec(op(), 0..20),
        after in proptest::collection::vec(op(), 0..8),
        damage in damage(),
    ) {
        block_on(async {
            let mut run = Run::new();
            for op in &before {
                run.apply(op).await;
            }
            run.journal = None; // everything is synced
            let kept = run.model.finished();
            run.model = kept.clone();
            run.journal = Some(open(run.dir.path(), small()));
            let noted = std::fs::read(run.dir.path().join("durable")).unwrap();
            let synced: BTreeMap<_, _> = segments(run.dir.path())
                .into_iter()
                .map(|path| (path.clone(), path.metadata().unwrap().len()))
                .collect();
            for op in after.iter().filter(|op| !matches!(op, Op::Release | Op::Restart)) {
                run.apply(op).await;
            }
            run.journal = None;
            let all = run.model.finished();

            if let Some(newest) = segments(run.dir.path()).pop() {
                // A new segment's own preamble and shapes are synced before it has its name.
                let from = synced.get(&newest).copied().unwrap_or_else(|| first_transaction(&newest));
                damage.apply(&newest, from);
                std::fs::write(run.dir.path().join("durable"), &noted).unwrap();
            }
            let journal = open(run.dir.path(), small());
            let read = read_to_end(&journal, run.released).await;
            let is = |n: usize| all.transactions.get(n).cloned();
            let skip = all.transactions.iter().filter(|(h, _)| h.position <= run.released).count();
            for (n, transaction) in read.transactions.iter().enumerate() {
                assert_eq!(Some(transaction), is(n + skip).as_ref(), "nothing invented");
            }
            assert!(skip + read.transactions.len() >= kept.transactions.len(), "nothing durable lost");
            let shapes: BTreeMap<_, _> = journal.shapes().into_iter().collect();
            assert!(kept.shapes.iter().all(|(id, shape)| shapes.get(id) == Some(shape)));

            // And it goes on.
            let mut maker = Maker { end: journal.end(), shapes: 1000 };
            journal.append(maker.transaction(10)).await.unwrap();
            durable(&journal, maker.end).await;
            let count = read.transactions.len();
            assert_eq!(read_to_end(&journal, run.released).await.transactions.len(), count + 1);
        });
    }

    /// A bad disk: what was durable and is not what it was is said so, not cut off.
    #[test]
    fn damage_before_the_durable_end_is_an_error(
        ops in proptest::collection::vec(op(), 1..20),
        damage in damage(),
    ) {
        block_on(async {
            let mut run = Run::new();
            for op in &ops {
                run.apply(op).await;
            }
            run.journal = None;
            // A restart settles what is unfinished.
            drop(open(run.dir.path(), small()));
            let Some(newest) = segments(run.dir.path()).pop() else { return };
            damage.apply(&newest, 0);
            match Journal::open(run.dir.path(), ORIGIN, small()) {
                Err(Error::Damaged { .. } | Error::Version { .. }) => {
                    assert!(!matches!(damage, Damage::Garbage(_)));
                }
                Err(err) => panic!("{err}"),
                Ok(journal) => {
                    assert!(matches!(damage, Damage::Garbage(_)));
                    assert_eq!(journal.end(), run.maker.end);
                }
            }
        });
    }
}

/// Where the first frame that is not a leading shape starts.
fn first_transaction(path: &Path) -> u64 {
    let file = std::fs::File::open(path).unwrap();
    let (_, body) = super::super::segment::Preamble::read(&file, path).unwrap();
    let content = Bytes::from(std::fs::read(path).unwrap());
    let mut rest = content.slice(body as usize..);
    let mut left = rest.len();
    while let Some(Frame::Shape { .. }) = decode(&mut rest).unwrap() {
        left = rest.len();
    }
    (content.len() - left) as u64
}

#[tokio::test]
async fn a_missing_segment_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    for _ in 0..100 {
        journal.append(maker.transaction(200)).await.unwrap();
    }
    drop(journal);
    let all = segments(dir.path());
    for missing in [&all[2], all.last().unwrap()] {
        let away = missing.with_extension("away");
        std::fs::rename(missing, &away).unwrap();
        let err = Journal::open(dir.path(), ORIGIN, small()).unwrap_err();
        assert!(matches!(err, Error::Damaged { .. }), "{err}");
        std::fs::rename(&away, missing).unwrap();
    }
    assert_eq!(open(dir.path(), small()).end(), maker.end);
    // The oldest may be gone: that is what a release does.
    std::fs::remove_file(&all[0]).unwrap();
    let journal = open(dir.path(), small());
    read_to_end(&journal, journal.first()).await;
}

#[tokio::test]
async fn a_reader_refuses_damaged_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    for _ in 0..100 {
        journal.append(maker.transaction(200)).await.unwrap();
    }
    drop(journal);
    let third = &segments(dir.path())[2];
    let mut content = std::fs::read(third).unwrap();
    content[1000] ^= 4;
    std::fs::write(third, content).unwrap();
    let journal = open(dir.path(), small());
    let mut reader = journal.reader(Lsn::ZERO).unwrap();
    let err = loop {
        match reader.next().await {
            Ok(_) => assert!(reader.position() < journal.end()),
            Err(err) => break err,
        }
    };
    assert!(matches!(err, Error::Damaged { .. }), "{err}");
}
