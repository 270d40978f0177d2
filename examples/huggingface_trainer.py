# pip install ".[examples]" && python examples/huggingface_trainer.py --data FOLDER
"""Hugging Face `Trainer`: the model is compiled in place before the trainer gets it.

`TrainingArguments(torch_compile_backend="tract")` is not possible: Accelerate has a fixed list of backends and raises
"'TRACT' is not a valid DynamoBackend". A model that is compiled already is trained as it is, and `model.compile()`
leaves it a `PreTrainedModel` whose checkpoints have no prefix.
"""

from __future__ import annotations

import torch
from common import parser, training_images
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments


def collate(items: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch under the names that the model knows."""
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels)}


def main(arguments: list[str] | None = None) -> torch.nn.Module:
    """Train, and return the model."""
    args = parser(__doc__).parse_args(arguments)
    data, channels, classes = training_images(args.data, args.image_size)

    config = ResNetConfig(
        num_channels=channels,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        num_labels=classes,
    )
    model = ResNetForImageClassification(config)
    model.compile(backend="tract", options={"lam": args.lam})

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.out),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            learning_rate=1e-3,
            save_steps=args.steps,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
        ),
        train_dataset=data,
        data_collator=collate,
    )
    trainer.train(resume_from_checkpoint=args.resume)
    return model


if __name__ == "__main__":
    main()
