// The safetensors container: 8 bytes of header length, a JSON header, data.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/file.h"

namespace r1::rt {

enum class Dtype : std::uint8_t { f8_e4m3, bf16, f16, f32, f64, u8, i8, i16, i32, i64, boolean, other };
[[nodiscard]] std::size_t dtype_bytes(Dtype dtype);  // 0 for other
[[nodiscard]] const char* dtype_name(Dtype dtype);   // as in the header: "F8_E4M3"

struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::other;
  std::vector<std::uint64_t> shape;
  std::uint64_t offset_bytes = 0;  // from the start of the file
  std::uint64_t length_bytes = 0;
};

inline constexpr std::uint64_t max_safetensors_header_bytes = 100'000'000;  // the reference implementation's limit

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // ascending by offset
  std::map<std::string, std::string> metadata;
};

// Checks everything the header of a file says: sizes, offsets inside the file, no overlap and no gap, no duplicate
// name, length = product of shape × element size without overflow. The error names file, tensor and byte.
[[nodiscard]] Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> file, const std::string& path);

// A file mapped read-only, checked so. Tensors are aligned only as far as the file has it.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);

  [[nodiscard]] const std::string& path() const { return file_->path(); }
  [[nodiscard]] std::span<const SafetensorsEntry> entries() const { return entries_; }  // ascending by offset
  [[nodiscard]] const SafetensorsEntry* find(std::string_view name) const;
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  [[nodiscard]] std::span<const std::byte> data(const SafetensorsEntry& entry) const;  // mapped
  [[nodiscard]] const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to write, its data elsewhere.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> data;
};
[[nodiscard]] Result<void> write_safetensors(const std::string& path, std::span<const TensorView> tensors,
                                             const std::map<std::string, std::string>& metadata = {});

// Small ones (traces, fixtures) with their data.
struct NamedTensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::uint64_t> shape;
  std::vector<std::byte> data;
};
[[nodiscard]] Result<void> write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                                             const std::map<std::string, std::string>& metadata = {});

}  // namespace r1::rt
