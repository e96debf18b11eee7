//! The sources, on machines that are not there.

use std::path::Path;
use std::process::Command;

use tokenjoule::energy::source::{Device, Energy, Found, Part, Reading};
use tokenjoule::energy::{hwmon, nvml, rapl};

use super::fakes::{FakeNvml, Tree, gpus, two_sockets};

fn read(found: &mut Found, with_gauges: bool) -> Vec<Option<Reading>> {
    let mut readings = Vec::new();
    for source in &mut found.sources {
        source.read(with_gauges, &mut |_, reading| readings.push(reading));
    }
    readings
}

fn energies(found: &mut Found) -> Vec<Option<Energy>> {
    read(found, false).into_iter().map(|reading| reading.map(|reading| reading.energy)).collect()
}

fn devices(found: &Found) -> Vec<&Device> {
    found.sources.iter().flat_map(|source| source.devices()).collect()
}

fn names(found: &Found) -> Vec<&str> {
    devices(found).iter().map(|device| device.name.as_str()).collect()
}

#[track_caller]
fn assert_missing(found: &Found, expected: &[&str]) {
    let reasons: Vec<String> =
        found.missing.iter().map(|it| format!("{} {}: {}", it.kind, it.name, it.reason)).collect();
    assert_eq!(reasons.len(), expected.len(), "{reasons:#?}");
    for (reason, expected) in reasons.iter().zip(expected) {
        assert!(reason.contains(expected), "{reason:?} says nothing of {expected:?}");
    }
}

// ---- NVML ----

fn nvml(fake: &FakeNvml, visible: Option<&str>) -> Found {
    let mut found = Found::default();
    nvml::find(Some(fake.path()), visible, &mut found);
    found
}

#[test]
fn one_gpu_is_read_by_its_counter() {
    let fake = FakeNvml::new(&gpus(&[5000]), &[]);
    let mut found = nvml(&fake, None);
    assert_missing(&found, &[]);
    let device = devices(&found)[0].clone();
    assert_eq!((device.name.as_str(), device.vendor.as_str()), ("GPU 0 NVIDIA Test 0", "nvidia"));
    assert_eq!(
        (device.method.as_str(), device.part, device.joules_per_count),
        ("hw_counter", Part::Gpu, 1e-3)
    );
    assert_eq!(energies(&mut found), [Some(Energy::Count(5000))]);
    let Reading { utilization_pct, memory_gb, temperature_c, .. } = read(&mut found, true)[0].unwrap();
    assert_eq!((utilization_pct, memory_gb, temperature_c), (80.0, 1.0, 40.0));
    assert!(read(&mut found, false)[0].unwrap().temperature_c.is_nan(), "gauges cost time");
    fake.say(&gpus(&[6000]));
    assert_eq!(energies(&mut found), [Some(Energy::Count(6000))]);
    drop(found);
    assert_eq!(fake.log(), "init\nshutdown\n");
}

#[test]
fn four_gpus_are_four_devices_and_those_that_cuda_may_not_see_are_none() {
    let fake = FakeNvml::new(&(gpus(&[1, 2, 3, 4]) + "MIG-77 2\n"), &[]);
    let read_of = |visible| energies(&mut nvml(&fake, visible));
    let counts = |counts: &[u64]| counts.iter().map(|count| Some(Energy::Count(*count))).collect::<Vec<_>>();
    assert_eq!(read_of(None), counts(&[1, 2, 3, 4]));
    assert_eq!(read_of(Some("2,0")), counts(&[3, 1]));
    assert_eq!(read_of(Some(" 1 , 9, 3")), counts(&[2]), "as in CUDA, what cannot be ends the list");
    assert_eq!(read_of(Some("GPU-33aa-bb,GPU-1")), counts(&[4, 2]), "by UUID, and by the beginning of one");
    assert_eq!(read_of(Some("GPU-")), [], "which of them?");
    assert_eq!(read_of(Some("MIG-77")), counts(&[3]), "the whole device of an instance");
    assert_eq!(read_of(Some("MIG-GPU-11aa-bb/1/0,MIG-GPU-11aa-bb/2/0")), counts(&[2]), "once");
    for none in ["", "-1", "NoDevFiles"] {
        let found = nvml(&fake, Some(none));
        assert!(found.sources.is_empty());
        assert_missing(&found, &["CUDA_VISIBLE_DEVICES"]);
    }
}

#[test]
fn without_a_counter_power_is_read_at_the_moment_or_as_a_mean() {
    let fake = FakeNvml::new("count 2\n0.power 150000\n0.instant 210000\n1.power 90500\n", &[]);
    let mut found = nvml(&fake, None);
    assert_eq!(energies(&mut found), [Some(Energy::Watts(210.0)), Some(Energy::Watts(90.5))]);
    assert!(devices(&found).iter().all(|device| device.method == "polling"));
    assert_missing(&found, &[]);
}

#[test]
fn a_library_that_lacks_the_counter_is_read_by_power() {
    let fake = FakeNvml::new("count 1\n0.power 150000\n0.energy 5\n", &["-DWITHOUT_ENERGY"]);
    assert_eq!(energies(&mut nvml(&fake, None)), [Some(Energy::Watts(150.0))]);
}

#[test]
fn a_gpu_that_supports_nothing_is_missing_and_says_so() {
    let fake = FakeNvml::new("count 1\n0.name Orin (nvgpu)\n", &[]);
    let found = nvml(&fake, None);
    assert!(found.sources.is_empty());
    assert_missing(&found, &["energy counter: not supported by this GPU"]);
    drop(found);
    assert_eq!(fake.log(), "init\nshutdown\n");
}

#[test]
fn a_gpu_that_is_lost_fails_to_be_read_and_the_others_do_not() {
    let fake = FakeNvml::new(&gpus(&[1, 2]), &[]);
    let mut found = nvml(&fake, None);
    fake.say(&(gpus(&[10, 20]) + "0.handle !15\n"));
    assert_eq!(energies(&mut found), [None, Some(Energy::Count(20))]);
    fake.say(&gpus(&[30, 40]).replace("1.energy 40", "1.energy !15"));
    assert_eq!(energies(&mut found), [Some(Energy::Count(30)), None]);

    // Lost when it was looked for.
    fake.say(&(gpus(&[1, 2]) + "1.handle !15\n"));
    let found = nvml(&fake, None);
    assert_eq!(names(&found), ["GPU 0 NVIDIA Test 0"]);
    assert_missing(&found, &["nvml GPU 1: device fell off the bus"]);
}

#[test]
fn a_driver_that_cannot_be_used_is_a_reason() {
    let fails_with = |script: &str, without: &[&str], expected: &str| {
        let found = nvml(&FakeNvml::new(script, without), None);
        assert!(found.sources.is_empty());
        assert_missing(&found, &[expected]);
    };
    fails_with("init !18\n", &[], "different versions");
    fails_with("init !9\n", &[], "driver is not loaded");
    fails_with("init !4\n", &[], "permission");
    fails_with("count 0\n", &[], "no GPU");
    fails_with("count !999\n", &[], "internal driver error");
    fails_with("count 1\n", &["-DWITHOUT_COUNT"], "too old");
    fails_with("count 1\n", &["-DWITHOUT_SHUTDOWN"], "nvmlShutdown");

    for path in [Path::new("/nowhere/libnvidia-ml.so.1"), &super::support::root().join("Cargo.toml")] {
        let mut found = Found::default();
        nvml::find(path.to_str(), None, &mut found);
        assert!(found.sources.is_empty());
        assert_missing(&found, &["cannot be loaded"]);
    }
}

// ---- RAPL ----

fn rapl(root: &Path) -> Found {
    let mut found = Found::default();
    rapl::find(root, &mut found);
    found
}

#[test]
fn packages_and_memory_are_counted_and_nothing_twice() {
    let tree = two_sockets();
    let mut found = rapl(tree.path());
    assert_missing(&found, &[]);
    let expected =
        ["intel-rapl:0 package-0", "intel-rapl:0:2 dram", "intel-rapl:1 package-1", "intel-rapl:1:2 dram"];
    assert_eq!(names(&found), expected);
    let parts: Vec<Part> = devices(&found).iter().map(|device| device.part).collect();
    assert_eq!(parts, [Part::Cpu, Part::Dram, Part::Cpu, Part::Dram]);
    assert!(devices(&found).iter().all(|it| it.vendor == "cpu_rapl" && it.method == "rapl"));
    let counts = [1_000_000, 2_000_000, 3_000_000, 4_000_000].map(|count| Some(Energy::Count(count)));
    assert_eq!(energies(&mut found), counts);
    assert_eq!(devices(&found)[0].wrap_joules().unwrap().round(), 65_533.0);

    // As in /sys/class/powercap, where links of all domains lie beside each other.
    let flat = Tree::new();
    for link in ["intel-rapl", "intel-rapl/intel-rapl:0", "intel-rapl/intel-rapl:0/intel-rapl:0:2"] {
        let name = Path::new(link).file_name().unwrap();
        std::os::unix::fs::symlink(tree.path().join(link), flat.path().join(name)).unwrap();
    }
    let found = rapl(flat.path());
    assert_eq!(names(&found), expected);
}

#[test]
fn a_package_of_several_dies_and_one_of_amd_are_counted() {
    let tree = Tree::new();
    tree.zone("intel-rapl:0", "package-0-die-0", 1).zone("intel-rapl:1", "package-0-die-1", 2);
    tree.zone("amd-rapl:0", "package-0", 3).zone("intel-rapl:0:0", "core", 9);
    assert_eq!(energies(&mut rapl(tree.path())), [3, 1, 2].map(|count| Some(Energy::Count(count))));
}

#[test]
fn descriptors_are_kept_open_and_what_vanishes_fails_to_be_read() {
    let tree = two_sockets();
    let mut found = rapl(tree.path());
    tree.zone("intel-rapl/intel-rapl:0", "package-0", 1_500_000); // written in place
    assert_eq!(energies(&mut found)[0], Some(Energy::Count(1_500_000)));
    tree.write("intel-rapl/intel-rapl:0/energy_uj", "");
    assert_eq!(energies(&mut found)[0], None, "what is no number");
    tree.remove("intel-rapl");
    assert_eq!(energies(&mut found)[2], Some(Energy::Count(3_000_000)), "the descriptor is open");
    assert_missing(&rapl(tree.path()), &["no RAPL domain"]);
}

#[test]
fn what_is_not_there_or_cannot_be_read_is_a_reason() {
    assert_missing(&rapl(Path::new("/nowhere/powercap")), &["no powercap"]);
    let tree = two_sockets();
    tree.remove("intel-rapl/intel-rapl:0/energy_uj");
    tree.write("intel-rapl/intel-rapl:0/energy_uj/x", 1); // a folder: opens, and cannot be read
    tree.remove("intel-rapl/intel-rapl:1/name");
    let found = rapl(tree.path());
    assert_eq!(names(&found), ["intel-rapl:0:2 dram", "intel-rapl:1:2 dram"]);
    assert_missing(&found, &["intel-rapl:0 package-0: ", "intel-rapl:1: "]);
}

/// As another user than root, whom nothing is forbidden: this program runs itself as one.
#[test]
fn a_counter_that_only_root_may_read_says_so_and_what_to_do() {
    const TREE: &str = "TJ_TEST_FORBIDDEN";
    if let Ok(tree) = std::env::var(TREE) {
        let found = rapl(Path::new(&tree));
        assert!(found.sources.is_empty(), "{:?}", names(&found));
        assert_missing(&found, &["permission denied. Since Linux 5.10"]);
        assert!(found.missing[0].reason.contains("chmod g+r"));
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    // Where another user can go, with a copy of this program that it can run.
    let folder = tempfile::Builder::new()
        .prefix("tj-")
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let zone = folder.path().join("tree/intel-rapl:0");
    std::fs::create_dir_all(&zone).unwrap();
    std::fs::write(zone.join("name"), "package-0\n").unwrap();
    std::fs::write(zone.join("energy_uj"), "5\n").unwrap();
    std::fs::set_permissions(zone.join("energy_uj"), PermissionsExt::from_mode(0o000)).unwrap();
    let program = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let is_root = std::fs::read(zone.join("energy_uj")).is_ok();
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    let test = "sources::a_counter_that_only_root_may_read_says_so_and_what_to_do";
    let said = super::support::run(command.args(["--exact", test]).env(TREE, folder.path().join("tree")));
    assert!(said.contains("1 passed"), "{said}");
}

// ---- hwmon ----

fn hwmon(drm: &Path, sensors: &Path) -> Found {
    let mut found = Found::default();
    hwmon::find(drm, sensors, &mut found);
    found
}

#[test]
fn cards_are_read_by_energy_or_by_power() {
    let tree = Tree::new();
    tree.write("card0/device/hwmon/hwmon3/name", "amdgpu")
        .write("card0/device/hwmon/hwmon3/power1_average", 85_000_000)
        .write("card0/device/hwmon/hwmon3/temp1_input", 61_000)
        .write("card0/device/gpu_busy_percent", 97)
        .write("card0/device/mem_info_vram_used", 3_u64 << 30)
        .write("card0-DP-1/device/hwmon/hwmon3/name", "amdgpu")
        .write("card1/device/hwmon/hwmon4/name", "i915")
        .write("card1/device/hwmon/hwmon4/energy1_input", 123_456)
        .write("card2/device/hwmon/hwmon5/name", "xe")
        .write("card2/device/hwmon/hwmon5/energy2_input", 77)
        .write("card3/device/hwmon/hwmon6/name", "amdgpu")
        .write("card3/device/hwmon/hwmon6/power1_input", 20_000_000)
        .write("card4/device/hwmon/hwmon7/name", "nouveau");
    let mut found = hwmon(tree.path(), Path::new("/nowhere"));
    assert_missing(&found, &[]);
    assert_eq!(names(&found), ["card0 amdgpu", "card1 i915", "card2 xe", "card3 amdgpu"]);
    let how: Vec<(&str, &str)> =
        devices(&found).iter().map(|it| (it.vendor.as_str(), it.method.as_str())).collect();
    let (amd, intel) = (("amd", "polling"), ("intel", "hw_counter"));
    assert_eq!(how, [amd, intel, intel, amd]);
    let expected = [Energy::Watts(85.0), Energy::Count(123_456), Energy::Count(77), Energy::Watts(20.0)];
    assert_eq!(energies(&mut found), expected.map(Some));
    let Reading { utilization_pct, memory_gb, temperature_c, .. } = read(&mut found, true)[0].unwrap();
    assert_eq!((utilization_pct, memory_gb, temperature_c), (97.0, 3.0, 61.0));
    assert!(read(&mut found, true)[1].unwrap().utilization_pct.is_nan());
    tree.write("card0/device/hwmon/hwmon3/power1_average", "");
    assert_eq!(energies(&mut found)[0], None);
}

#[test]
fn sensors_of_a_card_without_a_node_are_found_and_those_with_one_only_once() {
    let (drm, sensors) = (Tree::new(), Tree::new());
    drm.write("card0/device/hwmon/hwmon0/name", "amdgpu")
        .write("card0/device/hwmon/hwmon0/power1_average", 5);
    sensors.write("hwmon1/name", "amdgpu").write("hwmon1/power1_average", 7).write("hwmon2/name", "k10temp");
    let again = drm.path().join("card0/device/hwmon/hwmon0");
    std::os::unix::fs::symlink(again, sensors.path().join("hwmon0")).unwrap();
    assert_eq!(names(&hwmon(drm.path(), sensors.path())), ["card0 amdgpu", "hwmon1 amdgpu"]);
}

#[test]
fn a_card_that_shows_nothing_and_a_machine_without_one_are_reasons() {
    let tree = Tree::new();
    assert_missing(&hwmon(tree.path(), tree.path()), &["neither"]);
    tree.write("card0/device/hwmon/hwmon0/name", "amdgpu");
    assert_missing(&hwmon(tree.path(), Path::new("/nowhere")), &["shows neither energy nor power"]);
    tree.write("card0/device/hwmon/hwmon0/energy1_input/x", 1);
    assert_missing(&hwmon(tree.path(), Path::new("/nowhere")), &["energy1_input"]);
}
