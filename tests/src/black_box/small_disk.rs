//! A disk that can be filled and emptied: a file system in memory, mounted where a node keeps its data.
//!
//! Mounting needs rights that not everybody has. Where it is not allowed, there is no such disk, and a line on stderr says
//! so.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

/// Room for a short log and some snapshots.
const OPTIONS: &CStr = c"size=16m";

/// A mounted file system. Dropping it unmounts it, at the latest when nobody uses it any more.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `folder`, which is created.
    pub fn mount(folder: &Path) -> Option<SmallDisk> {
        static EXPLAINED: Once = Once::new();
        let mounted = std::fs::create_dir_all(folder).and_then(|()| {
            mount("none", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, OPTIONS).map_err(Into::into)
        });
        match mounted {
            Ok(()) => Some(SmallDisk { folder: folder.to_path_buf() }),
            Err(error) => {
                EXPLAINED.call_once(|| eprintln!("no disks are filled: this process may not mount one: {error}"));
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Leaves no byte free.
    pub fn fill(&self) {
        let Ok(mut file) = File::create(self.filler()) else { return };
        for piece in [vec![0; 64 << 10], vec![0; 1]] {
            while file.write_all(&piece).is_ok() {}
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn clear(&self) {
        // An error means that there is none.
        let _ = std::fs::remove_file(self.filler());
    }

    /// Whether it is mounted there.
    pub fn is_at(&self, folder: &Path) -> bool {
        self.folder == folder
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.folder, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.folder.display());
        }
    }
}
