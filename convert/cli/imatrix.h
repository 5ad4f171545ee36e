// r1-quantize imatrix MODEL --text FILE OUT, r1-quantize imatrix merge OUT IN…
#pragma once

#include <atomic>

namespace r1::convert {

// argv[0] is "imatrix". *stop ends the work with its state kept.
int main_imatrix(int argc, char** argv, const std::atomic<bool>* stop);

}  // namespace r1::convert
