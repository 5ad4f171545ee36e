// r1 doctor: what this machine is, and what the library makes of it.
#include <fmt/format.h>
#include <r1/system.h>

#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const SystemReport& r) {
  ordered_json kernels = ordered_json::array(), nodes = ordered_json::array();
  for (const KernelChoice& k : r.kernels) kernels.push_back({{"isa", k.isa}, {"used", k.used}, {"reason", k.reason}});
  for (const SystemNode& n : r.nodes) {
    nodes.push_back({{"node", n.os_index}, {"cores", n.n_cores}, {"memory_bytes", n.memory_bytes}});
  }
  return {{"version", r.version},
          {"cpu", r.cpu_name},
          {"packages", r.n_packages},
          {"cores", r.n_cores},
          {"threads", r.n_threads},
          {"cpu_quota", r.cpu_quota > 0 ? ordered_json(r.cpu_quota) : ordered_json()},
          {"default_threads", r.n_team_threads},
          {"l2_bytes", r.l2_bytes},
          {"l3_bytes", r.l3_bytes},
          {"kernels", std::move(kernels)},
          {"nodes", std::move(nodes)},
          {"memory_bytes", r.memory_bytes},
          {"memory_available_bytes", r.memory_available_bytes},
          {"transparent_huge_pages", r.transparent_huge_pages},
          {"read_bytes_per_second", r.read_bytes_per_s},
          {"read_threads", r.read_threads},
          {"disk",
           {{"path", r.disk_path},
            {"free_bytes", r.disk_free_bytes},
            {"read_bytes_per_second", r.disk_read_bytes_per_s},
            {"note", r.disk_note}}}};
}

std::string plural(int n, const char* noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

std::string to_text(const SystemReport& r) {
  std::string text = fmt::format("r1 {}\n\n", r.version);
  const auto line = [&](const char* name, const std::string& value) { text += fmt::format("{:<12}{}\n", name, value); };
  line("CPU", r.cpu_name);
  line("cores", fmt::format("{}, {}, {}", plural(r.n_packages, "package"), plural(r.n_cores, "core"),
                            plural(r.n_threads, "thread")));
  if (r.cpu_quota > 0) {
    line("", fmt::format("CPU quota of {:.2f} cores (control group): {} by default", r.cpu_quota,
                         plural(r.n_team_threads, "thread")));
  }
  line("caches", fmt::format("L2 {}, L3 {}", human_bytes(r.l2_bytes), human_bytes(r.l3_bytes)));
  for (const SystemNode& n : r.nodes) {
    line(fmt::format("NUMA {}", n.os_index).c_str(),
         fmt::format("{}, {}", plural(n.n_cores, "core"), human_bytes(n.memory_bytes)));
  }
  line("memory", fmt::format("{}, {} available", human_bytes(r.memory_bytes), human_bytes(r.memory_available_bytes)));
  if (r.read_bytes_per_s > 0) {
    line("", fmt::format("reads {} with {} (measured): the bound of generation", human_rate(r.read_bytes_per_s),
                         plural(r.read_threads, "thread")));
  }
  line("huge pages", r.transparent_huge_pages.empty() ? "unknown" : "transparent: " + r.transparent_huge_pages);
  if (r.transparent_huge_pages == "never") {
    line("", "slower: as root, echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
  }
  line("disk", fmt::format("{}: {} free", r.disk_path, human_bytes(r.disk_free_bytes)));
  line("", r.disk_read_bytes_per_s > 0 ? fmt::format("reads {} ({})", human_rate(r.disk_read_bytes_per_s), r.disk_note)
                                       : r.disk_note);
  text += "\nkernels, best first\n";
  for (const KernelChoice& k : r.kernels) text += fmt::format("  {} {:<14}{}\n", k.used ? '*' : ' ', k.isa, k.reason);
  return text;
}

}  // namespace

Command add_doctor(CLI::App& app) {
  struct DoctorFlags {
    SystemOptions options;
    bool quick = false, json = false;
  };
  const auto flags = std::make_shared<DoctorFlags>();
  app.add_option("--disk", flags->options.disk_path, "Folder whose disk is measured [this one]")->type_name("DIR");
  app.add_option("--isa", flags->options.isa, "As if this instruction set were asked for [R1_ISA]")->type_name("NAME");
  app.add_flag("--quick", flags->quick, "Measure nothing");
  app.add_flag("--json", flags->json, "As one JSON object, sizes in bytes");
  return [flags](Environment& environment) {
    flags->options.measure = !flags->quick;
    const auto system = inspect_system(flags->options);
    if (!system) return report(system.error());
    environment.terminal.write(flags->json ? to_line(to_json(*system)) : to_text(*system));
    return int{exit_done};
  };
}

}  // namespace r1::cli
