"""Ten steps of training with each library of the template machine-learning.

Each prints its line; what is wrong raises.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded

import numpy as np

random = np.random.default_rng(1)
x = random.normal(size=(200, 2)).astype("float32")
y = 3 * x[:, 0] - x[:, 1] + 2


def say(name, what):
    print(f"{name}: {what}", flush=True)


def fits(predicted):
    return bool(np.abs(predicted - y).mean() < np.abs(y - y.mean()).mean() / 5)


import torch

# What is fitted is known, so that a library that computes wrong is found.
torch.manual_seed(1)
line = torch.nn.Linear(2, 1)
steps = torch.optim.SGD(line.parameters(), lr=0.3)
inputs, targets = torch.from_numpy(x), torch.from_numpy(y)[:, None]
for _ in range(10):
    loss = torch.nn.functional.mse_loss(line(inputs), targets)
    steps.zero_grad()
    loss.backward()
    steps.step()
say("torch", [round(p, 1) for p in line.weight.detach()[0].tolist()] + [round(line.bias.item(), 1), torch.cuda.is_available()])

# With much of what calls libraries of the processor's makers.
a = torch.from_numpy(random.normal(size=(50, 50)))
u, s, v = torch.linalg.svd(a)
image = torch.ones(1, 1, 5, 5)
say("torch computes", [
    torch.allclose(u @ torch.diag(s) @ v, a),
    torch.allclose(torch.fft.ifft(torch.fft.fft(a)).real, a),
    torch.nn.functional.conv2d(image, torch.ones(1, 1, 3, 3)).sum().item(),
    torch.sparse.mm(torch.eye(50).double().to_sparse_csr(), a).equal(a),
])

# A processor that is asked for all the same is an error, and nothing worse.
errors = []
for ask in (lambda: torch.ones(1).cuda(), torch.cuda.synchronize, lambda: torch.ones(1, device="cuda")):
    try:
        ask()
    except RuntimeError as err:
        errors.append("NVIDIA driver" in str(err))
torch.__config__.show()
with torch.profiler.profile() as profile:
    a @ a
say("torch without a GPU", errors + [any("mm" in e.key for e in profile.key_averages())])

from torch.utils.data import DataLoader, TensorDataset

batches = DataLoader(TensorDataset(inputs, targets), batch_size=50, num_workers=2)
say("torch loads data", [sum(len(b) for b, _ in batches), bool(np.isclose(sum(t.sum().item() for _, t in batches), y.sum(), rtol=1e-3))])

from transformers import BertConfig, BertForSequenceClassification

config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
model = BertForSequenceClassification(config)
tokens = torch.from_numpy(random.integers(0, 50, size=(8, 16)))
labels = tokens[:, 0] % 2
shape = list(model(tokens).logits.shape)
steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for _ in range(10):
    loss = model(tokens, labels=labels).loss
    steps.zero_grad()
    loss.backward()
    steps.step()
    losses.append(loss.item())
model.save_pretrained("/tmp/model")
again = BertForSequenceClassification.from_pretrained("/tmp/model")
say("transformers", shape + [losses[-1] < losses[0] / 2, torch.allclose(again.eval()(tokens).logits, model.eval()(tokens).logits)])

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE(unk_token="?"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(["sand box sand box soul"] * 5, trainers.BpeTrainer(special_tokens=["?"], show_progress=False))
say("tokenizers", tokenizer.encode("soul sand box").tokens)

import xgboost

booster = xgboost.train({"max_depth": 3, "eta": 0.5}, xgboost.DMatrix(x, y), num_boost_round=10)
say("xgboost", [booster.num_boosted_rounds(), fits(booster.predict(xgboost.DMatrix(x)))])

import lightgbm

booster = lightgbm.train({"objective": "regression", "learning_rate": 0.5, "verbose": -1}, lightgbm.Dataset(x, y), 10)
say("lightgbm", [booster.num_trees(), fits(booster.predict(x))])
