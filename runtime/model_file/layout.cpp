#include "runtime/model_file/layout.h"

#include <fmt/format.h>

#include "runtime/base/try.h"
#include "runtime/io/json.h"

namespace r1::rt {
namespace {

std::uint64_t round_up(std::uint64_t n, std::uint64_t to) {
  return (n + to - 1) / to * to;
}

// Matrix a part belongs to: experts have one each, k_b and v_b repeat theirs.
std::size_t matrix_of_part(const BlobSpec& spec, std::size_t part) {
  return spec.rule == PartRule::experts ? part : 0;
}

}  // namespace

Result<StoredBlob> stored_blob(const BlobSpec& spec, const std::vector<quant::Format>& formats) {
  StoredBlob stored;
  std::uint64_t end = 0;
  for (std::uint32_t part = 0; part < spec.n_parts; ++part) {
    const std::size_t m = matrix_of_part(spec, part);
    const MatrixSpec& matrix = spec.matrices[m];
    const auto layout = quant::blob_layout(formats[m], matrix.rows, matrix.k);
    const std::uint64_t offset = round_up(end, quant::blob_alignment_bytes);
    if (!layout || __builtin_add_overflow(offset, layout->bytes, &end) || end > std::uint64_t{1} << 62) {
      return Error{ErrorCode::unsupported, fmt::format("[{}, {}] is too large", matrix.rows, matrix.k), spec.name};
    }
    stored.parts.push_back({formats[m], *layout, offset});
  }
  stored.length_bytes = round_up(end, page_bytes);
  return stored;
}

std::string blob_metadata(const BlobSpec& spec, const StoredBlob& stored, std::uint64_t xxh3) {
  std::string matrices;
  for (std::size_t m = 0; m < spec.matrices.size(); ++m) {
    const PartLayout& part = stored.parts[m];
    matrices += fmt::format("{}[\"{}\",{},{},{}]", m > 0 ? "," : "", quant::info(part.format).name, part.layout.rows,
                            part.layout.k, part.offset_bytes);
  }
  return fmt::format("{{\"matrices\":[{}],\"parts\":{},\"xxh3\":\"{:016x}\"}}", matrices, spec.n_parts, xxh3);
}

Result<ParsedBlobMetadata> parse_blob_metadata(const BlobSpec& spec, const std::string& text,
                                               const std::string& where) {
  R1_TRY(const Json document, parse_json(text, where));
  const JsonObject json(document, where);
  R1_TRY(const std::int64_t n_parts, json.integer("parts", 1, INT32_MAX));
  if (n_parts != static_cast<std::int64_t>(spec.n_parts)) {
    return json.error("parts", fmt::format("{} where config.json wants {}", n_parts, spec.n_parts));
  }
  const Json* matrices = json.find("matrices");
  if (matrices == nullptr || !matrices->is_array() || matrices->size() != spec.matrices.size()) {
    return json.error("matrices", fmt::format("must list {} matrices", spec.matrices.size()));
  }
  std::vector<quant::Format> formats;
  for (std::size_t m = 0; m < spec.matrices.size(); ++m) {
    const Json& entry = (*matrices)[m];
    if (!entry.is_array() || entry.size() != 4 || !entry[0].is_string() || !entry[1].is_number_unsigned() ||
        !entry[2].is_number_unsigned() || !entry[3].is_number_unsigned()) {
      return json.error("matrices", "each must be [format, rows, k, offset]");
    }
    const auto name = entry[0].get<std::string>();
    const auto format = quant::format_from_name(name);
    if (!format) {
      return Error{ErrorCode::unsupported, fmt::format("format {} is unknown to this version; update r1rt", name),
                   where};
    }
    const auto rows = entry[1].get<std::uint64_t>(), k = entry[2].get<std::uint64_t>();
    if (rows != spec.matrices[m].rows || k != spec.matrices[m].k) {
      return json.error("matrices", fmt::format("shape [{}, {}] where config.json wants [{}, {}]", rows, k,
                                                spec.matrices[m].rows, spec.matrices[m].k));
    }
    formats.push_back(*format);
  }
  ParsedBlobMetadata parsed;
  R1_TRY(parsed.stored, stored_blob(spec, formats));
  for (std::size_t m = 0; m < formats.size(); ++m) {
    if ((*matrices)[m][3].get<std::uint64_t>() != parsed.stored.parts[m].offset_bytes) {
      return json.error("matrices",
                        fmt::format("offset of matrix {} must be {}", m, parsed.stored.parts[m].offset_bytes));
    }
  }
  R1_TRY(const std::string checksum, json.string("xxh3"));
  if (checksum.size() != 16 || checksum.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return json.error("xxh3", "must be 16 hexadecimal digits");
  }
  parsed.xxh3 = std::stoull(checksum, nullptr, 16);
  return parsed;
}

std::string shard_name(const BlobSpec& spec) {
  return spec.rule == PartRule::experts ? fmt::format("experts-{:03}.safetensors", spec.layer) : "common.safetensors";
}

}  // namespace r1::rt
