"""Analytic plants: models in which single MLP neurons turn known SAE features into another answer, or none does.

A *gate* is a neuron that reads a feature at the final prompt token, through the norm before the MLP, and writes against
the answer margin. So both the feature and the layer that writes are known, and a search can be judged by whether it
names them. A *relay* in between reads the feature and writes a direction of its own, which is all that the gate reads;
it is another neuron, or a head that carries the feature from question tokens. A *decoy* model flips as often without
any gate.
"""

from interp.demo.plants.decoys import plant_decoys as plant_decoys
from interp.demo.plants.gate import Gate as Gate
from interp.demo.plants.gate import plant_gates as plant_gates
from interp.demo.plants.record import Plant as Plant
from interp.demo.plants.record import PlantedGate as PlantedGate
from interp.demo.plants.record import save_plant as save_plant
