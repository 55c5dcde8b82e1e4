//! The contract of stores, for those that need no server. The others run it beside theirs.

#[path = "support/fuse.rs"]
mod fuse;
#[path = "support/keys.rs"]
mod keys;

use keys::Keys;
use tower_reauth::{FileStore, MemoryStore, Sealed, SharedStore};

/// An empty directory, which goes with the target directory: a test ends while its store is in use.
fn dir() -> std::path::PathBuf {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep()
}

tower_reauth::store_contract!(memory, || async { MemoryStore::new() });
tower_reauth::store_contract!(file, || async { FileStore::open(dir()).unwrap() });
tower_reauth::store_contract!(shared_memory, || async { SharedStore::new(MemoryStore::new()) });
tower_reauth::store_contract!(shared_file, || async { SharedStore::new(FileStore::open(dir()).unwrap()) });
tower_reauth::store_contract!(sealed_memory, || async { Sealed::new(MemoryStore::new(), Keys::new()) });
tower_reauth::store_contract!(sealed_file, || async { Sealed::new(FileStore::open(dir()).unwrap(), Keys::new()) });
