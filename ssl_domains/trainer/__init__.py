"""Trainer: from a method and a source to a run directory. Import from the modules; this one imports nothing.

``config``      TrainConfig(batch_size, steps | epochs | samples, accumulate, clip_norm, precision, seed ...)
                .budget(n_samples, full_batch=, world_size=) -> Budget
``run``         RunDirectory.create(path) / .open(path); .path .recipe_path .encoder_path .metrics_path
                .write_recipe(mapping | text) .read_recipe() .write_environment(data_path=None)
                .metrics() -> rows; .checkpoints() newest first; .latest() -> newest intact one
``checkpoint``  save_encoder(path, encoder, *, domain, encoder_name, encoder_options, spec) -> Path
                read_encoder_config(path) -> dict; init_from(module, path)
                save_checkpoint(...), restore(...), read_state(checkpoint)
"""
