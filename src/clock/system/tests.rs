use super::*;
use crate::clock::{ManualClock, Timekeeper};
use std::time::UNIX_EPOCH;
use tempfile::TempDir;

fn place() -> (TempDir, SystemClock) {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SystemClock::new().with_mark(dir.path().join("time"));
    (dir, clock)
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("a name");
    let mut names: Vec<_> = fs::read_dir(dir).expect("a directory").map(name).collect();
    names.sort();
    names
}

/// The machine's file, and clocks that a test moves.
struct Machine(SystemClock, ManualClock);

impl Clock for Machine {
    fn now(&self) -> SystemTime {
        self.1.now()
    }
    fn monotonic(&self) -> Duration {
        self.1.monotonic()
    }
    fn boot_id(&self) -> Option<String> {
        self.1.boot_id()
    }
    fn load_mark(&self) -> Option<Vec<u8>> {
        self.0.load_mark()
    }
    fn save_mark(&self, mark: &[u8]) {
        self.0.save_mark(mark);
    }
}

#[test]
fn the_mark_is_one_private_file_that_is_replaced_as_a_whole() {
    let (dir, clock) = place();
    assert_eq!(clock.load_mark(), None);
    for mark in ["one", "another", ""] {
        clock.save_mark(mark.as_bytes());
        assert_eq!(clock.load_mark().as_deref(), Some(mark.as_bytes()).filter(|mark| !mark.is_empty()));
        assert_eq!(names(dir.path()), ["time"], "and nothing beside it");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let path = dir.path().join("time");
        let before = fs::metadata(&path).unwrap();
        assert_eq!(before.mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        clock.save_mark(b"once more");
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.mode() & 0o777, 0o600);
        assert_ne!(before.ino(), after.ino(), "a crash leaves the old one or the new one");
    }
}

#[test]
fn what_cannot_be_read_or_written_is_no_mark_and_no_panic() {
    let (dir, _) = place();
    let at = |path: &str| SystemClock::new().with_mark(dir.path().join(path));
    fs::create_dir(dir.path().join("directory")).unwrap();
    fs::write(dir.path().join("large"), vec![b'x'; MOST as usize + 1]).unwrap();
    for clock in [at("directory"), at("missing/time"), at("large/time"), at(".."), SystemClock::new().with_mark("")] {
        clock.save_mark(b"mark");
        assert_eq!(clock.load_mark(), None);
    }
    assert_eq!(at("large").load_mark(), None);
    assert_eq!(names(dir.path()), ["directory", "large"]);
    assert!(dir.path().join("directory").is_dir() && names(&dir.path().join("directory")).is_empty());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_its_place_keeps_nobody_waiting_and_stays() {
    use std::os::unix::fs::FileTypeExt as _;
    let (dir, clock) = place();
    let path = dir.path().join("time");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    assert_eq!(clock.load_mark(), None);
    clock.save_mark(b"mark");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
}

/// A directory that nobody may write to keeps the mark that is there.
#[cfg(unix)]
#[test]
fn a_read_only_directory_keeps_its_mark() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, clock) = place();
    clock.save_mark(b"mark");
    let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o500);
    let is_root = File::create(dir.path().join("probe")).is_ok(); // whom no permission stops
    clock.save_mark(b"newer");
    let kept = clock.load_mark();
    mode(0o700);
    assert_eq!(kept.as_deref(), Some(if is_root { &b"newer"[..] } else { b"mark" }));
}

/// By a file alone, as processes do: each round all save at once, and the greatest mark of each is what is left.
#[cfg(unix)]
#[test]
fn p15_many_who_save_at_once_lose_nothing_that_one_of_them_knew() {
    const SAVERS: u64 = 4;
    let (dir, clock) = place();
    let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let all = std::sync::Barrier::new(SAVERS as usize);
    let hours = |hours: u64| start + Duration::from_secs(3600 * hours);
    std::thread::scope(|scope| {
        for saver in 0..SAVERS {
            let (clock, all) = (&clock, &all);
            scope.spawn(move || {
                for round in 0..25 {
                    all.wait();
                    let order = (saver + round) % SAVERS; // who knows most is another one each time
                    let mark = Mark::new(None, hours(SAVERS * round + order).into()).write();
                    clock.save_mark(&mark.expect("can be written"));
                    all.wait();
                    let Kept::Mark(kept) = Mark::read(clock.load_mark().as_deref()) else { panic!("no mark") };
                    assert_eq!(kept.mark.system(), hours(SAVERS * round + SAVERS - 1));
                }
            });
        }
    });
    assert_eq!(names(dir.path()), ["time"]);
    let machine = Machine(clock, ManualClock::new(start));
    let time = Timekeeper::open(Arc::new(machine));
    assert_eq!((time.now().system(), time.is_trusted()), (hours(99), false));
}

/// Somebody who is stopped in the middle of it.
#[cfg(unix)]
#[test]
fn a_lock_that_is_never_given_back_costs_two_seconds_and_no_mark() {
    let (dir, clock) = place();
    clock.save_mark(b"old");
    let stopped = File::open(dir.path().join("time")).unwrap();
    stopped.lock().unwrap();
    clock.save_mark(b"new");
    assert_eq!(clock.load_mark().as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_mark_of_a_newer_version_is_left_alone() {
    let (_dir, clock) = place();
    let newer = br#"{"format":2,"time":"of the future"}"#;
    clock.save_mark(newer);
    let time = Timekeeper::open(Arc::new(clock.clone()));
    time.answered(Some(clock.now() + Duration::from_secs(3600)), time.monotonic());
    time.save(time.saving());
    assert_eq!(clock.load_mark().as_deref(), Some(&newer[..]));
}

/// On this very machine, as a program would use it.
#[test]
fn the_mark_of_this_machine_is_loaded_again() {
    let (_dir, clock) = place();
    let open = || Timekeeper::open(Arc::new(clock.clone()));
    let time = open();
    let hour = Duration::from_secs(3600);
    time.answered(Some(clock.now() + hour), time.monotonic());
    time.save(time.saving());
    let ahead = open().now().system().duration_since(clock.now()).unwrap();
    assert!(ahead <= hour && ahead > hour - Duration::from_secs(60), "{ahead:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn this_machine_tells_when_it_was_started_and_counts_time_asleep() {
    let clock = SystemClock::new();
    assert!(clock.boot_id().is_some_and(|id| id.len() == 36));
    let uptime = fs::read_to_string("/proc/uptime").unwrap(); // which counts it, too
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!((clock.monotonic().as_secs_f64() - uptime).abs() < 5.0);
}
