//! [`SystemClock`]: the machine's clocks, and a file for its mark.

use super::{
    Clock,
    mark::{Kept, Mark},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// The longest file that can be a mark.
const MOST: u64 = 64 << 10;
/// How long a saver waits for another one.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(2);
#[cfg(unix)]
const PAUSE: Duration = Duration::from_millis(5);

/// The machine's clocks: the wall clock, and the one that counts suspended time.
///
/// The latter is `CLOCK_BOOTTIME` on Linux and Android, and `CLOCK_MONOTONIC` on other unixes, which goes on during sleep
/// on macOS and iOS. Elsewhere it is `Instant`, which goes on during sleep on Windows; where it does not, an offline window
/// is longer by the time asleep. The start of the machine is known where `/proc` tells it (Linux, and Android if it
/// lets the program look); elsewhere every process begins as after a restart of the machine.
///
/// ```
/// use tower_reauth::{Clock, SystemClock};
///
/// let clock = SystemClock::new();
/// assert!(clock.monotonic() <= clock.monotonic());
/// ```
#[derive(Clone, Debug, Default)]
pub struct SystemClock {
    mark: Option<Arc<Path>>,
}

impl SystemClock {
    /// The machine's clocks, which remember nothing of trusted time beyond the life of the process.
    pub const fn new() -> Self {
        Self { mark: None }
    }

    /// Keeps the mark of trusted time in this file; without it, it lives as long as the process, and a user who turns the
    /// clock back between two runs of a program gains time offline.
    ///
    /// One file for the machine, for all its accounts and processes that trust one another: they learn from each other
    /// what servers told. Not on a volume that other machines share, nor in a backup: it says how far *this* machine's
    /// clock is off. It is made with mode 0600 (its directory is not made), and replaced as a whole.
    ///
    /// A file that cannot be read is as good as none, and one that cannot be written is not written: no session fails for
    /// it. Whoever can delete it can be offline for as long as someone without it: keep it where the application keeps
    /// its own data, and ask for the server ("online") where that is not enough.
    ///
    /// ```
    /// use tower_reauth::{Clock, SystemClock};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let clock = SystemClock::new().with_mark(dir.path().join("time"));
    /// assert_eq!(clock.load_mark(), None);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_mark(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Absolute: a program that changes its working directory keeps its mark.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { mark: Some(path.into()) }
    }
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // the one place that reads the machine's clocks
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    #[cfg(unix)]
    fn monotonic(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let id = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let id = ClockId::Monotonic;
        let time = clock_gettime(id);
        Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
    }

    #[cfg(not(unix))]
    fn monotonic(&self) -> Duration {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    fn boot_id(&self) -> Option<String> {
        static BOOT: OnceLock<Option<String>> = OnceLock::new();
        let read = || Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned());
        BOOT.get_or_init(read).clone()
    }

    fn load_mark(&self) -> Option<Vec<u8>> {
        read(self.mark.as_deref()?).filter(|bytes| !bytes.is_empty())
    }

    fn save_mark(&self, mark: &[u8]) {
        if let Some(path) = &self.mark {
            let _ = save(path, mark); // as the trait says: not loudly
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    // A pipe would wait for somebody who writes.
    let file = if fs::metadata(path).ok()?.is_file() { File::open(path).ok()? } else { return None };
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MOST).then_some(bytes)
}

/// Together with what others have kept since it was last read: two processes do not take each other's marks back.
fn save(path: &Path, mark: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let _lock = lock(path);
    let kept = read(path);
    let merged = match (Mark::read(Some(mark)), Mark::read(kept.as_deref())) {
        (Kept::Mark(_), Kept::Newer) => return Ok(()),
        (Kept::Mark(mine), Kept::Mark(kept)) => mine.merged(&kept).write(),
        _ => None,
    };
    let bytes = merged.as_deref().unwrap_or(mark);
    if kept.as_deref() == Some(bytes) {
        return Ok(());
    }
    replace(path, bytes)
}

/// After a crash there is the old mark or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut scratch = name.to_owned();
    scratch.push(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let scratch = path.with_file_name(scratch);
    let write = || {
        match fs::remove_file(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private().write(true).create_new(true).open(&scratch)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&scratch, path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&scratch);
        return Err(error);
    }
    #[cfg(unix)]
    if let Some(dir) = path.parent() {
        let _ = File::open(dir).and_then(|dir| dir.sync_all());
    }
    Ok(())
}

/// The file itself is the lock, so that there is no other one to make; whoever has got it makes sure that it still is the
/// mark, since a mark is replaced. Somebody who is stopped with it keeps nobody from saving for longer than two seconds.
#[cfg(unix)]
fn lock(path: &Path) -> Option<File> {
    use std::os::unix::fs::MetadataExt as _;
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        let file = private().read(true).write(true).create(true).truncate(false).open(path).ok()?;
        match file.try_lock() {
            Ok(()) => {
                let (mine, there) = (file.metadata().ok()?, fs::metadata(path));
                if there.is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
                    return Some(file);
                }
            }
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Locks are in the way of readers there, so this holds in one process only: of two that save within one moment, the one
/// that was first may be lost until it saves again.
#[cfg(not(unix))]
fn lock(_: &Path) -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn private() -> OpenOptions {
    #[allow(unused_mut)] // where there are permissions
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(all(test, feature = "test-util"))]
mod tests;
