#include "numa/topology.h"
