//! Machines that are not there: a driver library that follows a script, trees as powercap and the GPU drivers make them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{WARNINGS, root, run, scratch};

/// The driver library of a machine's own, with its script.
pub struct FakeNvml {
    folder: tempfile::TempDir,
    library: PathBuf,
}

impl FakeNvml {
    /// `without`: the functions that it lacks (`-DWITHOUT_…`).
    pub fn new(script: &str, without: &[&str]) -> FakeNvml {
        let folder = scratch();
        let library = folder.path().join("libnvidia-ml.so.1");
        let mut compiler = Command::new("cc");
        compiler.arg("-std=c11").args(WARNINGS).args(["-shared", "-fPIC"]).args(without);
        run(compiler.arg(root().join("tests/c/fake_nvml.c")).arg("-o").arg(&library).arg("-ldl"));
        let fake = FakeNvml { folder, library };
        fake.say(script);
        fake
    }

    /// From now on it says this.
    pub fn say(&self, script: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, script).unwrap();
        std::fs::rename(fresh, self.folder.path().join("libnvidia-ml.so.1.script")).unwrap();
    }

    pub fn path(&self) -> &str {
        self.library.to_str().unwrap()
    }

    /// What was begun and ended.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("libnvidia-ml.so.1.log")).unwrap_or_default()
    }
}

/// A script for so many GPUs whose counters stand at that many mJ.
pub fn gpus(millijoules: &[u64]) -> String {
    let mut script = format!("count {}\n", millijoules.len());
    for (gpu, energy) in millijoules.iter().enumerate() {
        let memory = (gpu as u64 + 1) << 30;
        write!(
            script,
            "{gpu}.name NVIDIA Test {gpu}\n{gpu}.uuid GPU-{gpu}{gpu}aa-bb\n{gpu}.energy {energy}\n{gpu}.busy {}\n\
             {gpu}.memory {memory}\n{gpu}.temperature {}\n",
            80 + gpu,
            40 + gpu
        )
        .unwrap();
    }
    script
}

/// A folder of small files.
pub struct Tree(tempfile::TempDir);

impl Tree {
    pub fn new() -> Tree {
        Tree(scratch())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, file: &str, text: impl std::fmt::Display) -> &Tree {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
        self
    }

    /// A powercap domain.
    pub fn zone(&self, path: &str, name: &str, microjoules: u64) -> &Tree {
        self.write(&format!("{path}/name"), name)
            .write(&format!("{path}/energy_uj"), microjoules)
            .write(&format!("{path}/max_energy_range_uj"), 65_532_610_987_u64)
    }

    pub fn remove(&self, file: &str) {
        let path = self.path().join(file);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
}

/// Two sockets with domains of the same names, and everything that must not be counted.
pub fn two_sockets() -> Tree {
    let tree = Tree::new();
    tree.zone("intel-rapl/intel-rapl:0", "package-0", 1_000_000)
        .zone("intel-rapl/intel-rapl:0/intel-rapl:0:0", "core", 7)
        .zone("intel-rapl/intel-rapl:0/intel-rapl:0:1", "uncore", 7)
        .zone("intel-rapl/intel-rapl:0/intel-rapl:0:2", "dram", 2_000_000)
        .zone("intel-rapl/intel-rapl:1", "package-1", 3_000_000)
        .zone("intel-rapl/intel-rapl:1/intel-rapl:1:0", "core", 7)
        .zone("intel-rapl/intel-rapl:1/intel-rapl:1:2", "dram", 4_000_000)
        .zone("intel-rapl/intel-rapl:2", "psys", 9_000_000)
        .zone("intel-rapl-mmio/intel-rapl-mmio:0", "package-0", 1_000_000);
    tree.write("intel-rapl/enabled", 1);
    tree
}
