//! NVIDIA GPUs, by the driver's own library, which is loaded at run time.
//!
//! The total energy counter (mJ since the driver was loaded; Volta and later) where a read of it works, else the power,
//! integrated. Which works is found out by reading: Jetson initialises well and then supports nothing. On a GPU that is
//! split into instances (MIG) the figure is the whole device's.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT;

use super::source::{Device, Energy, Found, Part, Reading, Source};

const KIND: &str = "nvml";
/// The counter moves every 20 to 100 ms.
const UPDATE_PERIOD: f64 = 0.1;

struct Gpus {
    nvml: Nvml,
    devices: Vec<Device>,
    gpus: Vec<Gpu>,
}

struct Gpu {
    /// Its number in the driver. Handles are asked for anew each time: the driver keeps them ready.
    index: u32,
    how: How,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Counter,
    PowerNow,
    PowerMean,
}

/// Looks for GPUs. `path` is the library's; `None`: the loader finds it. `visible` is CUDA_VISIBLE_DEVICES, `None` if it is
/// not set.
pub fn find(path: Option<&str>, visible: Option<&str>, found: &mut Found) {
    let mut builder = Nvml::builder();
    if let Some(path) = path {
        builder.lib_path(path.as_ref());
    }
    let nvml = match builder.init() {
        Ok(nvml) => nvml,
        Err(error) => return found.miss(KIND, "", reason(&error, path)),
    };
    if nvml.lib().nvmlShutdown.is_err() {
        // The wrapper would panic when it is dropped.
        std::mem::forget(nvml);
        return found.miss(KIND, "", "the driver's library has no nvmlShutdown");
    }
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => return found.miss(KIND, "", reason(&error, path)),
    };
    if count == 0 {
        return found.miss(KIND, "", "the NVIDIA driver is there, and no GPU");
    }
    let chosen = match visible {
        Some(visible) => chosen(&nvml, count, visible),
        None => (0..count).collect(),
    };
    if chosen.is_empty() {
        let what = format!(
            "CUDA_VISIBLE_DEVICES is {:?}, which is none of {count} GPUs",
            visible.unwrap_or_default()
        );
        return found.miss(KIND, "", what);
    }
    let mut gpus = Gpus { nvml, devices: Vec::new(), gpus: Vec::new() };
    for index in chosen {
        if let Err(why) = gpus.add(index) {
            found.miss(KIND, format!("GPU {index}"), why);
        }
    }
    if !gpus.gpus.is_empty() {
        found.sources.push(Box::new(gpus));
    }
}

/// The GPUs that CUDA_VISIBLE_DEVICES names, by number, by UUID or the beginning of one, or by an instance of theirs. As in
/// CUDA, what cannot be ends the list. Numbers are the driver's, which are CUDA's if CUDA_DEVICE_ORDER is PCI_BUS_ID, or
/// if all GPUs are alike.
fn chosen(nvml: &Nvml, count: u32, visible: &str) -> Vec<u32> {
    let uuids: Vec<String> = (0..count)
        .map(|index| nvml.device_by_index(index).and_then(|gpu| gpu.uuid()).unwrap_or_default())
        .collect();
    let by_uuid = |name: &str| {
        let mut fitting = (0..count).filter(|index| uuids[*index as usize].starts_with(name));
        fitting.next().filter(|_| fitting.next().is_none())
    };
    let mut chosen = Vec::new();
    for name in visible.split(',').map(str::trim) {
        let index = if let Ok(index) = name.parse::<u32>() {
            Some(index).filter(|index| *index < count)
        } else if let Some(of_gpu) = name.strip_prefix("MIG-").filter(|rest| rest.starts_with("GPU-")) {
            by_uuid(of_gpu.split('/').next().unwrap_or_default()) // MIG-GPU-<uuid>/<gi>/<ci>
        } else if name.starts_with("MIG-") {
            let parent = nvml.device_by_uuid(name).and_then(|instance| instance.mig_parent_device());
            parent.and_then(|gpu| gpu.uuid()).ok().and_then(|uuid| by_uuid(&uuid))
        } else if name.starts_with("GPU-") {
            by_uuid(name)
        } else {
            None
        };
        match index {
            Some(index) if !chosen.contains(&index) => chosen.push(index),
            Some(_) => (), // two instances of a GPU
            None => break,
        }
    }
    chosen
}

impl Gpus {
    fn add(&mut self, index: u32) -> Result<(), String> {
        let gpu = self.nvml.device_by_index(index).map_err(|error| reason(&error, None))?;
        let name = gpu.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned());
        let mut why = String::new();
        let how = [How::Counter, How::PowerNow, How::PowerMean].into_iter().find(|how| {
            let probe = how.read(&gpu);
            let error = probe.as_ref().err().map(|error| reason(error, None)).unwrap_or_default();
            if !error.is_empty() && !why.contains(&error) {
                why += &format!("{}{}: {error}", if why.is_empty() { "" } else { "; " }, how.call());
            }
            probe.is_ok()
        });
        let Some(how) = how else { return Err(format!("{name}: {why}")) };
        self.devices.push(Device {
            kind: KIND,
            name: format!("GPU {index} {name}"),
            vendor: "nvidia".to_owned(),
            method: if how == How::Counter { "hw_counter" } else { "polling" }.to_owned(),
            part: Part::Gpu,
            update_period: if how == How::Counter { UPDATE_PERIOD } else { 0.0 },
            joules_per_count: 1e-3,
            wraps_at: None,
        });
        self.gpus.push(Gpu { index, how });
        Ok(())
    }
}

impl How {
    fn read(self, gpu: &nvml_wrapper::Device<'_>) -> Result<Energy, NvmlError> {
        match self {
            How::Counter => gpu.total_energy_consumption().map(Energy::Count),
            How::PowerMean => gpu.power_usage().map(|milliwatts| Energy::Watts(f64::from(milliwatts) / 1e3)),
            How::PowerNow => {
                let fields = gpu.field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])?;
                let field = fields.into_iter().next().ok_or(NvmlError::NoData)??;
                match field.value? {
                    SampleValue::U32(milliwatts) => Ok(Energy::Watts(f64::from(milliwatts) / 1e3)),
                    SampleValue::U64(milliwatts) => Ok(Energy::Watts(milliwatts as f64 / 1e3)),
                    _ => Err(NvmlError::NoData),
                }
            }
        }
    }

    fn call(self) -> &'static str {
        match self {
            How::Counter => "energy counter",
            How::PowerNow => "instant power",
            How::PowerMean => "power",
        }
    }
}

impl Source for Gpus {
    fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn read(&mut self, with_gauges: bool, each: &mut dyn FnMut(usize, Option<Reading>)) {
        for (device, Gpu { index, how }) in self.gpus.iter().enumerate() {
            let gpu = self.nvml.device_by_index(*index);
            let energy = gpu.as_ref().ok().and_then(|gpu| how.read(gpu).ok());
            let mut reading = energy.map(Reading::from);
            if let (Some(reading), Ok(gpu), true) = (&mut reading, &gpu, with_gauges) {
                let unknown = f64::NAN;
                reading.utilization_pct = gpu.utilization_rates().map_or(unknown, |busy| f64::from(busy.gpu));
                reading.memory_gb = gpu.memory_info().map_or(unknown, |it| it.used as f64 / 1_073_741_824.0);
                reading.temperature_c = gpu.temperature(TemperatureSensor::Gpu).map_or(unknown, f64::from);
            }
            each(device, reading);
        }
    }
}

/// What is wrong, and what to do.
fn reason(error: &NvmlError, path: Option<&str>) -> String {
    match error {
        NvmlError::LibloadingError(error) => {
            let path = path.unwrap_or("libnvidia-ml.so.1");
            format!("{path} cannot be loaded: no NVIDIA driver, or its library is not in this container ({error})")
        }
        NvmlError::FailedToLoadSymbol(symbol) => format!("the driver's library is too old: {symbol}"),
        NvmlError::LibRmVersionMismatch => {
            "the driver's library and the kernel's driver are of different versions: reboot, or load the driver anew"
                .to_owned()
        }
        NvmlError::NotSupported => "not supported by this GPU".to_owned(),
        error => error.to_string(),
    }
}
