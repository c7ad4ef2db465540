"""One rank of a tensor-parallel model, in a process of its own: prints what it drew, as JSON.

python rank.py RANK WORLD_SIZE MODEL_FOLDER
"""

import inspect
import json
import os
import sys

import torch
from transformers import LlamaForCausalLM
from transformers.distributed import DistributedConfig

from fused_sampler.hf import patch, unpatch


def main(rank: int, world_size: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/ranks", rank=rank, world_size=world_size
    )
    if "tp_size" in inspect.signature(DistributedConfig).parameters:
        how = {"distributed_config": DistributedConfig(tp_size=world_size)}
    else:  # transformers 4
        how = {"tp_plan": "auto"}
    model = LlamaForCausalLM.from_pretrained(folder, **how)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    drawn = {}
    for name, change in {"patched": patch, "plain": unpatch}.items():
        change(model)
        torch.manual_seed(rank)  # ranks of a real run differ as well, sooner or later
        drawn[name] = model.generate(ids, do_sample=True, max_new_tokens=8, top_k=0).tolist()
    print(json.dumps(drawn))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
