//! The processors' own counters (RAPL), as Linux's powercap shows them, on Intel and AMD alike.
//!
//! What is counted is each package, and the memory where it is a domain of its own. Never `core` and `uncore`, which are
//! in the package; never `psys`, which is the whole machine; never `intel-rapl-mmio`, which is the same package by another
//! way. Domains are told apart by where they are: two sockets have domains of the same names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::source::{Device, Energy, Found, Part, Source};
use super::sysfs::{Number, line, names};

const KIND: &str = "rapl";
/// Where powercap is.
pub const ROOT: &str = "/sys/class/powercap";
/// The counters move about every millisecond (Intel SDM, volume 3, 16.10.3).
const UPDATE_PERIOD: f64 = 0.001;

struct Rapl {
    devices: Vec<Device>,
    counters: Vec<Number>,
}

/// Looks for packages and memory below `root`.
pub fn find(root: &Path, found: &mut Found) {
    let zones = match zones(root) {
        Ok(zones) if !zones.is_empty() => zones,
        Ok(_) => {
            let what = "has no RAPL domain: a virtual machine, or a kernel without intel_rapl_msr (modprobe intel_rapl_msr)";
            return found.miss(KIND, "", format!("{} {what}", root.display()));
        }
        Err(error) => return found.miss(KIND, "", format!("{}: {error}: no powercap here", root.display())),
    };
    let mut rapl = Rapl { devices: Vec::new(), counters: Vec::new() };
    for (zone, path) in zones {
        let Some(name) = line(&path.join("name")) else {
            found.miss(KIND, zone, format!("{} cannot be read", path.join("name").display()));
            continue;
        };
        let Some(part) = part(&zone, &name) else { continue };
        let name = format!("{zone} {name}");
        let file = path.join("energy_uj");
        match Number::open(&file) {
            Ok(counter) => {
                rapl.devices.push(Device {
                    kind: KIND,
                    name,
                    vendor: "cpu_rapl".to_owned(),
                    method: "rapl".to_owned(),
                    part,
                    update_period: UPDATE_PERIOD,
                    joules_per_count: 1e-6,
                    wraps_at: line(&path.join("max_energy_range_uj"))
                        .and_then(|range| range.parse().ok())
                        .filter(|range| *range > 0),
                });
                rapl.counters.push(counter);
            }
            Err(error) => found.miss(KIND, name, reason(&file, &error)),
        }
    }
    if !rapl.devices.is_empty() {
        found.sources.push(Box::new(rapl));
    }
}

/// The domains, by name: both the flat list of links and the tree that they lead to are walked, and each is taken once.
fn zones(root: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut zones = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let is_root = folder == root;
        let inside = match names(&folder) {
            Ok(inside) => inside,
            Err(error) if is_root => return Err(error),
            Err(_) => continue,
        };
        for name in inside {
            let path = folder.join(&name);
            let is_control = is_root && ["intel-rapl", "amd-rapl"].contains(&name.as_str());
            if is_zone(&name) && !zones.contains_key(&name) {
                zones.insert(name, path.clone());
                folders.push(path);
            } else if is_control {
                folders.push(path);
            }
        }
    }
    Ok(zones)
}

/// `intel-rapl:0`, `intel-rapl:0:2`, but not `intel-rapl-mmio:0`.
fn is_zone(name: &str) -> bool {
    let numbers = name.strip_prefix("intel-rapl:").or_else(|| name.strip_prefix("amd-rapl:"));
    numbers.is_some_and(|numbers| {
        numbers
            .split(':')
            .all(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
    })
}

fn part(zone: &str, name: &str) -> Option<Part> {
    let is_below_another = zone.matches(':').count() > 1;
    match name {
        "dram" => Some(Part::Dram),
        name if name.starts_with("package") && !is_below_another => Some(Part::Cpu),
        _ => None,
    }
}

/// Why a counter cannot be read, and what to do.
pub(super) fn reason(file: &Path, error: &io::Error) -> String {
    let file = file.display();
    if error.kind() != io::ErrorKind::PermissionDenied {
        return format!("{file}: {error}");
    }
    format!(
        "{file}: permission denied. Since Linux 5.10 only root may read it. Give this program's user the right to: \
         chgrp GROUP {file} && chmod g+r {file} (at each boot, for example by a udev rule), or CAP_DAC_READ_SEARCH"
    )
}

impl Source for Rapl {
    fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn read(&mut self, _with_gauges: bool, each: &mut dyn FnMut(usize, Option<super::source::Reading>)) {
        for (device, counter) in self.counters.iter().enumerate() {
            each(device, counter.read().ok().map(|count| Energy::Count(count).into()));
        }
    }
}
