//! GPUs whose Linux driver shows what they draw in sysfs: AMD's `amdgpu`, Intel's `i915` and `xe`.
//!
//! `energy1_input` (µJ) where there is one, else `power1_average` or `power1_input` (µW), integrated.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::rapl::reason;
use super::source::{Device, Energy, Found, Part, Reading, Source};
use super::sysfs::{Number, line, names};

const KIND: &str = "hwmon";
/// Where the cards are …
pub const DRM_ROOT: &str = "/sys/class/drm";
/// … and the sensors, those of cards without a node in DRM included.
pub const HWMON_ROOT: &str = "/sys/class/hwmon";

struct Hwmon {
    devices: Vec<Device>,
    cards: Vec<Card>,
}

/// A card's files; `None` for one that it does not have.
struct Card {
    energy: Sensor,
    busy: Option<Number>,
    memory: Option<Number>,
    temperature: Option<Number>,
}

enum Sensor {
    Joules(Number),
    Watts(Number),
}

/// Looks for cards of a driver that is known.
pub fn find(drm_root: &Path, hwmon_root: &Path, found: &mut Found) {
    let mut hwmon = Hwmon { devices: Vec::new(), cards: Vec::new() };
    let missing_before = found.missing.len();
    let mut seen = BTreeSet::new();
    for card in names(drm_root).unwrap_or_default().into_iter().filter(|name| is_card(name)) {
        let device = drm_root.join(&card).join("device");
        let sensors = device.join("hwmon");
        for sensor in names(&sensors).unwrap_or_default() {
            hwmon.add(&card, &sensors.join(sensor), &device, &mut seen, found);
        }
    }
    for sensor in names(hwmon_root).unwrap_or_default() {
        let folder = hwmon_root.join(&sensor);
        hwmon.add(&sensor, &folder, &folder.join("device"), &mut seen, found);
    }
    if !hwmon.devices.is_empty() {
        found.sources.push(Box::new(hwmon));
    } else if found.missing.len() == missing_before {
        let (drm, hwmon) = (drm_root.display(), hwmon_root.display());
        found.miss(KIND, "", format!("neither {drm} nor {hwmon} has a GPU of amdgpu, i915 or xe"));
    }
}

/// `card0`, but not its outputs, `card0-DP-1`.
fn is_card(name: &str) -> bool {
    let number = name.strip_prefix("card").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

impl Hwmon {
    fn add(
        &mut self,
        name: &str,
        sensors: &Path,
        device: &Path,
        seen: &mut BTreeSet<PathBuf>,
        found: &mut Found,
    ) {
        let driver = line(&sensors.join("name")).unwrap_or_default();
        let vendor = match driver.as_str() {
            "amdgpu" => "amd",
            "i915" | "xe" => "intel",
            _ => return,
        };
        if !seen.insert(sensors.canonicalize().unwrap_or_else(|_| sensors.to_owned())) {
            return;
        }
        let name = format!("{name} {driver}");
        let energy = match Sensor::open(sensors) {
            Ok(energy) => energy,
            Err(reason) => return found.miss(KIND, name, reason),
        };
        let is_counter = matches!(energy, Sensor::Joules(_));
        self.devices.push(Device {
            kind: KIND,
            name,
            vendor: vendor.to_owned(),
            method: if is_counter { "hw_counter" } else { "polling" }.to_owned(),
            part: Part::Gpu,
            update_period: if is_counter { 0.01 } else { 0.0 },
            joules_per_count: 1e-6,
            wraps_at: None,
        });
        let open = |folder: &Path, file: &str| Number::open(&folder.join(file)).ok();
        self.cards.push(Card {
            energy,
            busy: open(device, "gpu_busy_percent"),
            memory: open(device, "mem_info_vram_used"),
            temperature: open(sensors, "temp1_input"),
        });
    }
}

impl Sensor {
    /// The best of the files in the folder, or why there is none.
    fn open(folder: &Path) -> Result<Sensor, String> {
        let mut why = None;
        // xe counts the card in energy1 and the package in energy2; some cards have the second only.
        for file in ["energy1_input", "energy2_input", "power1_average", "power1_input"] {
            let path = folder.join(file);
            match Number::open(&path) {
                Ok(number) if file.starts_with("energy") => return Ok(Sensor::Joules(number)),
                Ok(number) => return Ok(Sensor::Watts(number)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                Err(error) => why = why.or(Some(reason(&path, &error))),
            }
        }
        Err(why.unwrap_or_else(|| format!("{} shows neither energy nor power", folder.display())))
    }
}

impl Source for Hwmon {
    fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn read(&mut self, with_gauges: bool, each: &mut dyn FnMut(usize, Option<Reading>)) {
        for (device, card) in self.cards.iter().enumerate() {
            let energy = match &card.energy {
                Sensor::Joules(number) => number.read().map(Energy::Count),
                Sensor::Watts(number) => number.read().map(|micro| Energy::Watts(micro as f64 / 1e6)),
            };
            let gauge = |number: &Option<Number>, unit: f64| {
                let number = number.as_ref().filter(|_| with_gauges).and_then(|number| number.read().ok());
                number.map_or(f64::NAN, |number| number as f64 / unit)
            };
            let reading = energy.ok().map(|energy| Reading {
                energy,
                utilization_pct: gauge(&card.busy, 1.0),
                memory_gb: gauge(&card.memory, 1_073_741_824.0),
                temperature_c: gauge(&card.temperature, 1000.0),
            });
            each(device, reading);
        }
    }
}
