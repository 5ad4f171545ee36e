#include "runtime/io/file.h"
