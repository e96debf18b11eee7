//! What GPUs can do at most, as their vendors say.

use std::ffi::CStr;

/// A GPU's peak figures, without sparsity: operations and bytes per second. `NAN`: its vendor gives none, or it cannot.
#[derive(Debug, Clone, Copy)]
pub struct GpuPeak {
    /// What it is called here.
    pub name: &'static CStr,
    /// The vendor's paper with these figures.
    pub source: &'static CStr,
    /// FP32, outside of tensor cores.
    pub fp32_flops: f64,
    /// TF32.
    pub tf32_flops: f64,
    /// FP16, accumulated in FP32.
    pub fp16_flops: f64,
    /// BF16.
    pub bf16_flops: f64,
    /// FP8, accumulated in FP32.
    pub fp8_flops: f64,
    /// FP4.
    pub fp4_flops: f64,
    /// INT8.
    pub int8_ops: f64,
    /// Bytes from memory.
    pub memory_bytes_per_second: f64,
}

/// A row of the table: the words by which a name is known, and the figures in units of 10^12 and 10^9.
type Row = (&'static [&'static str], &'static CStr, [f64; 8], &'static CStr);

const NO: f64 = f64::NAN;

/// What the papers give with sparsity only is halved: structured sparsity (2:4) doubles the rate.
#[rustfmt::skip]
const TABLE: [Row; 31] = [
    //                                                   FP32    TF32    FP16    BF16     FP8     FP4    INT8    GB/s
    (&["gb200"],               c"NVIDIA GB200",       [  80.0, 1250.0, 2500.0, 2500.0, 5000.0,10000.0, 5000.0, 8000.0], BLACKWELL),
    (&["b200"],                c"NVIDIA B200",        [  75.0, 1100.0, 2250.0, 2250.0, 4500.0, 9000.0, 4500.0, 7700.0], BLACKWELL),
    (&["h200"],                c"NVIDIA H200 SXM",    [  67.0,  494.5,  989.5,  989.5, 1979.0,     NO, 1979.0, 4800.0], H200),
    (&["h200", "nvl"],         c"NVIDIA H200 NVL",    [  60.0,  417.5,  835.5,  835.5, 1670.5,     NO, 1670.5, 4800.0], H200),
    (&["h100"],                c"NVIDIA H100 SXM",    [  67.0,  494.5,  989.5,  989.5, 1979.0,     NO, 1979.0, 3350.0], H100),
    (&["h100", "pcie"],        c"NVIDIA H100 PCIe",   [  51.0,  378.0,  756.5,  756.5, 1513.0,     NO, 1513.0, 2000.0], H100),
    (&["h100", "nvl"],         c"NVIDIA H100 NVL",    [  60.0,  417.5,  835.5,  835.5, 1670.5,     NO, 1670.5, 3900.0], H100),
    (&["a100"],                c"NVIDIA A100 80GB SXM",  [19.5, 156.0,  312.0,  312.0,     NO,     NO,  624.0, 2039.0], A100),
    (&["a100", "80gb", "pcie"], c"NVIDIA A100 80GB PCIe", [19.5, 156.0, 312.0,  312.0,     NO,     NO,  624.0, 1935.0], A100),
    (&["a100", "40gb"],        c"NVIDIA A100 40GB",   [  19.5,  156.0,  312.0,  312.0,     NO,     NO,  624.0, 1555.0], A100),
    (&["a40"],                 c"NVIDIA A40",         [  37.4,   74.8,  149.7,  149.7,     NO,     NO,  299.3,  696.0], c"NVIDIA A40 datasheet"),
    (&["a30"],                 c"NVIDIA A30",         [  10.3,   82.0,  165.0,  165.0,     NO,     NO,  330.0,  933.0], c"NVIDIA A30 Tensor Core GPU datasheet"),
    (&["a10"],                 c"NVIDIA A10",         [  31.2,   62.5,  125.0,  125.0,     NO,     NO,  250.0,  600.0], c"NVIDIA A10 Tensor Core GPU datasheet"),
    (&["l40s"],                c"NVIDIA L40S",        [  91.6,  183.0, 362.05, 362.05,  733.0,     NO,  733.0,  864.0], c"NVIDIA L40S datasheet"),
    (&["l40"],                 c"NVIDIA L40",         [  90.5,   90.5, 181.05, 181.05,  362.0,     NO,  362.0,  864.0], c"NVIDIA L40 datasheet"),
    (&["l4"],                  c"NVIDIA L4",          [  30.3,   60.0,  121.0,  121.0,  242.5,     NO,  242.5,  300.0], c"NVIDIA L4 Tensor Core GPU datasheet"),
    (&["t4"],                  c"NVIDIA T4",          [   8.1,     NO,   65.0,     NO,     NO,     NO,  130.0,  300.0], c"NVIDIA T4 Tensor Core GPU datasheet"),
    (&["v100"],                c"NVIDIA V100 SXM2",   [  15.7,     NO,  125.0,     NO,     NO,     NO,     NO,  900.0], V100),
    (&["v100", "pcie"],        c"NVIDIA V100 PCIe",   [  14.0,     NO,  112.0,     NO,     NO,     NO,     NO,  900.0], V100),
    (&["v100s"],               c"NVIDIA V100S PCIe",  [  16.4,     NO,  130.0,     NO,     NO,     NO,     NO, 1134.0], V100),
    (&["5090"],                c"NVIDIA GeForce RTX 5090", [104.8, 104.8, 209.5, 209.5, 419.0, 1676.0,  838.0, 1792.0], c"NVIDIA RTX Blackwell GPU architecture whitepaper"),
    (&["4090"],                c"NVIDIA GeForce RTX 4090", [82.6,  82.6, 165.2,  165.2,  330.3,     NO,  660.6, 1008.0], ADA),
    (&["4080"],                c"NVIDIA GeForce RTX 4080", [48.7,  48.7,  97.5,   97.5,  194.9,     NO,  389.9,  716.8], ADA),
    (&["3090"],                c"NVIDIA GeForce RTX 3090", [35.6,  35.6,  71.0,   71.0,     NO,     NO,  284.0,  936.0], c"NVIDIA Ampere GA102 GPU architecture whitepaper"),
    (&["mi325x"],              c"AMD Instinct MI325X", [163.4,  653.7, 1307.4, 1307.4, 2614.9,     NO, 2614.9, 6000.0], c"AMD Instinct MI325X data sheet"),
    (&["mi300x"],              c"AMD Instinct MI300X", [163.4,  653.7, 1307.4, 1307.4, 2614.9,     NO, 2614.9, 5300.0], c"AMD Instinct MI300X data sheet"),
    // Apple gives no operations per second.
    (&["m1", "ultra"],         c"Apple M1 Ultra",     [    NO,     NO,     NO,     NO,     NO,     NO,     NO,  800.0], MAC_STUDIO),
    (&["m2", "ultra"],         c"Apple M2 Ultra",     [    NO,     NO,     NO,     NO,     NO,     NO,     NO,  800.0], MAC_STUDIO),
    (&["m3", "ultra"],         c"Apple M3 Ultra",     [    NO,     NO,     NO,     NO,     NO,     NO,     NO,  819.0], MAC_STUDIO),
    (&["m1", "max"],           c"Apple M1 Max",       [    NO,     NO,     NO,     NO,     NO,     NO,     NO,  400.0], MAC_STUDIO),
    (&["m2", "max"],           c"Apple M2 Max",       [    NO,     NO,     NO,     NO,     NO,     NO,     NO,  400.0], MAC_STUDIO),
];

const BLACKWELL: &CStr =
    c"NVIDIA Blackwell datasheet (GB200 NVL72, HGX B200), half of the figures with sparsity";
const H200: &CStr = c"NVIDIA H200 Tensor Core GPU datasheet, half of the figures with sparsity";
const H100: &CStr = c"NVIDIA H100 Tensor Core GPU datasheet, half of the figures with sparsity";
const A100: &CStr = c"NVIDIA A100 Tensor Core GPU datasheet";
const V100: &CStr = c"NVIDIA V100 Tensor Core GPU datasheet";
const ADA: &CStr = c"NVIDIA Ada GPU architecture whitepaper";
const MAC_STUDIO: &CStr = c"Apple, Mac Studio technical specifications";

/// Words that make another GPU, or a part of one, of whatever they stand beside.
const TELLING: [&str; 9] = ["ti", "super", "laptop", "mobile", "max", "q", "d", "mig", "vf"];

/// The figures of the GPU of that name, as its driver tells it ("NVIDIA A100-SXM4-80GB"), or in short ("A100"). Whole
/// words count, in any order and case; the row that knows most of them wins.
pub fn gpu_peak(name: &str) -> Option<GpuPeak> {
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let is_told = |known: &[&str]| words.iter().all(|word| !TELLING.contains(word) || known.contains(word));
    let rows =
        TABLE.iter().filter(|(known, ..)| known.iter().all(|word| words.contains(word)) && is_told(known));
    let (_, name, figures, source) = *rows.max_by_key(|(known, ..)| known.len())?;
    let [fp32, tf32, fp16, bf16, fp8, fp4, int8, gb] = figures;
    Some(GpuPeak {
        name,
        source,
        fp32_flops: fp32 * 1e12,
        tf32_flops: tf32 * 1e12,
        fp16_flops: fp16 * 1e12,
        bf16_flops: bf16 * 1e12,
        fp8_flops: fp8 * 1e12,
        fp4_flops: fp4 * 1e12,
        int8_ops: int8 * 1e12,
        memory_bytes_per_second: gb * 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nobody would notice in a table: a figure that is out of line with its neighbours.
    #[test]
    fn rows_make_sense() {
        for (known, name, figures, source) in TABLE {
            let found = gpu_peak(name.to_str().unwrap()).unwrap();
            assert_eq!(found.name, name, "{known:?}");
            assert!(!source.is_empty());
            let [fp32, tf32, fp16, bf16, fp8, fp4, int8, gb] = figures;
            assert!(figures.iter().all(|it| it.is_nan() || *it > 0.0), "{name:?}");
            assert!((100.0..=10_000.0).contains(&gb), "{name:?}");
            for (less, more) in [(fp32, fp16), (tf32, fp16), (fp16, fp8), (fp8, fp4), (fp16, int8)] {
                assert!(less.is_nan() || more.is_nan() || less < more, "{name:?}: {less} and {more}");
            }
            assert!(bf16.is_nan() || bf16 == fp16, "{name:?}");
        }
    }
}
