#include "runtime/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <tuple>

#include "runtime/base/try.h"
#include "runtime/io/json.h"

namespace r1::rt {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are used in place");

struct DtypeInfo {
  Dtype dtype;
  const char* name;
  std::size_t bytes;
};
constexpr std::array<DtypeInfo, 11> dtypes = {{{Dtype::f8_e4m3, "F8_E4M3", 1},
                                               {Dtype::bf16, "BF16", 2},
                                               {Dtype::f16, "F16", 2},
                                               {Dtype::f32, "F32", 4},
                                               {Dtype::f64, "F64", 8},
                                               {Dtype::u8, "U8", 1},
                                               {Dtype::i8, "I8", 1},
                                               {Dtype::i16, "I16", 2},
                                               {Dtype::i32, "I32", 4},
                                               {Dtype::i64, "I64", 8},
                                               {Dtype::boolean, "BOOL", 1}}};

Dtype dtype_from_name(std::string_view name) {
  for (const DtypeInfo& d : dtypes) {
    if (name == d.name) return d.dtype;
  }
  return Dtype::other;
}

Error tensor_error(const std::string& path, const std::string& tensor, std::string problem) {
  return {ErrorCode::corrupt, std::move(problem), fmt::format("{}: tensor {}", path, tensor)};
}

Result<SafetensorsEntry> read_entry(const std::string& path, const std::string& name, const Json& json,
                                    std::uint64_t data_begin, std::uint64_t data_bytes) {
  SafetensorsEntry entry;
  entry.name = name;
  if (!json.is_object()) return tensor_error(path, name, "its header entry is not an object");
  const JsonObject object(json, fmt::format("{}: tensor {}", path, name));
  R1_TRY(const std::string dtype, object.string("dtype"));
  entry.dtype = dtype_from_name(dtype);

  const Json* shape = object.find("shape");
  if (shape == nullptr || !shape->is_array()) return object.error("shape", "must be an array");
  std::uint64_t n_elements = 1;
  for (const Json& dimension : *shape) {
    if (!dimension.is_number_unsigned()) return object.error("shape", "must hold integers that are not negative");
    const auto size = dimension.get<std::uint64_t>();
    if (__builtin_mul_overflow(n_elements, size, &n_elements)) return object.error("shape", "overflows 64 bits");
    entry.shape.push_back(size);
  }
  if (entry.shape.size() > 16) return object.error("shape", "has more than 16 dimensions");

  const Json* offsets = object.find("data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2 || !(*offsets)[0].is_number_unsigned() ||
      !(*offsets)[1].is_number_unsigned()) {
    return object.error("data_offsets", "must be two integers that are not negative");
  }
  const auto begin = (*offsets)[0].get<std::uint64_t>(), end = (*offsets)[1].get<std::uint64_t>();
  if (begin > end || end > data_bytes) {
    return object.error(
        "data_offsets",
        fmt::format("{} … {} is outside the file's {} bytes of data; is the file truncated?", begin, end, data_bytes));
  }
  entry.offset_bytes = data_begin + begin;
  entry.length_bytes = end - begin;
  if (entry.dtype != Dtype::other) {
    std::uint64_t expected = 0;
    if (__builtin_mul_overflow(n_elements, dtype_bytes(entry.dtype), &expected) || expected != entry.length_bytes) {
      return object.error("data_offsets", fmt::format("hold {} bytes, but {} elements of {} need {}",
                                                      entry.length_bytes, n_elements, dtype, expected));
    }
  }
  return entry;
}

// The format wants every byte of the data in exactly one tensor. entries: ascending by offset.
Result<void> check_no_gaps(const std::string& path, std::span<const SafetensorsEntry> entries, std::uint64_t data_begin,
                           std::uint64_t file_bytes) {
  std::uint64_t end = data_begin;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry& entry = entries[i];
    if (entry.offset_bytes < end) {
      return tensor_error(path, entry.name,
                          fmt::format("byte {}: overlaps tensor {}", entry.offset_bytes, entries[i - 1].name));
    }
    if (entry.offset_bytes > end) {
      return tensor_error(path, entry.name,
                          fmt::format("bytes {} … {} before it belong to no tensor", end, entry.offset_bytes - 1));
    }
    end += entry.length_bytes;
  }
  if (end == file_bytes) return {};
  return Error{ErrorCode::corrupt, fmt::format("{} bytes from byte {} on belong to no tensor", file_bytes - end, end),
               path};
}

}  // namespace

std::size_t dtype_bytes(Dtype dtype) {
  for (const DtypeInfo& d : dtypes) {
    if (d.dtype == dtype) return d.bytes;
  }
  return 0;
}

const char* dtype_name(Dtype dtype) {
  for (const DtypeInfo& d : dtypes) {
    if (d.dtype == dtype) return d.name;
  }
  return "?";
}

Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < 8) {
    return Error{ErrorCode::corrupt, fmt::format("is {} bytes long, too short for a safetensors file", bytes.size()),
                 path};
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > max_safetensors_header_bytes || header_bytes > bytes.size() - 8) {
    return Error{ErrorCode::corrupt,
                 fmt::format("byte 0: the header's length {} exceeds {}; not a safetensors file, or truncated",
                             header_bytes, std::min<std::uint64_t>(max_safetensors_header_bytes, bytes.size() - 8)),
                 path};
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  R1_TRY(const Json json, parse_json(text, path + ": header"));
  if (!json.is_object()) return Error{ErrorCode::corrupt, "the header is not a JSON object", path};

  SafetensorsHeader header;
  const std::uint64_t data_begin = 8 + header_bytes;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Error{ErrorCode::corrupt, "__metadata__ is not an object", path};
      for (const auto& [key, entry] : value.items()) {
        if (!entry.is_string())
          return Error{ErrorCode::corrupt, fmt::format("__metadata__: {}: is not a string", key), path};
        header.metadata[key] = entry.get<std::string>();
      }
      continue;
    }
    R1_TRY(SafetensorsEntry entry, read_entry(path, name, value, data_begin, bytes.size() - data_begin));
    header.entries.push_back(std::move(entry));
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.offset_bytes, a.length_bytes, a.name) < std::tie(b.offset_bytes, b.length_bytes, b.name);
  });
  R1_CHECK(check_no_gaps(path, header.entries, data_begin, bytes.size()));
  return header;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  SafetensorsFile result;
  R1_TRY(result.file_, MappedFile::open(path));
  R1_TRY(SafetensorsHeader header, parse_safetensors(result.file_->bytes(), path));
  result.entries_ = std::move(header.entries);
  result.metadata_ = std::move(header.metadata);
  for (std::size_t i = 0; i < result.entries_.size(); ++i) result.by_name_[result.entries_[i].name] = i;
  return result;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &entries_[it->second];
}

std::span<const std::byte> SafetensorsFile::data(const SafetensorsEntry& entry) const {
  return file_->bytes().subspan(entry.offset_bytes, entry.length_bytes);
}

Result<void> write_safetensors(const std::string& path, std::span<const TensorView> tensors,
                               const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    std::uint64_t expected = dtype_bytes(tensor.dtype);
    for (const std::uint64_t size : tensor.shape) expected *= size;
    if (tensor.dtype == Dtype::other || expected != tensor.data.size() || header.contains(tensor.name)) {
      return Error{ErrorCode::invalid_argument, "its data do not fit its shape, or its name is used twice",
                   fmt::format("{}: tensor {}", path, tensor.name)};
    }
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = text.size();
  std::vector<std::byte> start(8 + text.size());
  std::memcpy(start.data(), &header_bytes, 8);
  std::memcpy(start.data() + 8, text.data(), text.size());
  std::vector<std::span<const std::byte>> pieces = {start};
  for (const TensorView& tensor : tensors) pieces.push_back(tensor.data);
  return write_file_atomically(path, pieces);
}

Result<void> write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                               const std::map<std::string, std::string>& metadata) {
  std::vector<TensorView> views;
  for (const NamedTensor& tensor : tensors) views.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.data});
  return write_safetensors(path, views, metadata);
}

}  // namespace r1::rt
