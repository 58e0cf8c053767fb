"""Trainer: from a method and a source to a run directory. Import from the modules; this one imports nothing.

``config``      TrainConfig(batch_size, steps | epochs | samples, accumulate, clip_norm, precision, seed ...)
                .budget(n_samples, full_batch=, world_size=) -> Budget
``run``         RunDirectory.create(path) / .open(path); .path .recipe_path .encoder_path .metrics_path
                .write_recipe(mapping | text) .read_recipe() .write_environment(data_path=None)
                .metrics() -> rows; .checkpoints() newest first; .latest() -> newest intact one
``checkpoint``  save_encoder(path, encoder, *, domain, encoder_name, encoder_options, spec) -> Path
                read_encoder_config(path) -> dict; init_from(module, path)
                save_checkpoint(run, method, optimizers, state, *, keep) -> Path; restore(checkpoint, method,
                optimizers) -> state; read_state(checkpoint) -> dict
``loop``        Trainer(method, source, config, *, optimizer=None, schedule=None, run=None, probe=None,
                progress=None, trackers=()); .fit(resume=False) -> FitResult(steps, samples, seconds, rows,
                findings, checkpoint); .export_encoder() -> whole encoder; .budget .device .step
                ``schedule``: an object with apply(optimizer, step), or a callable of total_steps=
                A method may define optimizers(build) -> {name: Optimizer} and
                training_step(batches, trainer) -> Output with trainer.forward/backward/update/optimizers
``signals``     Interrupted(step, checkpoint): Ctrl-C or SIGTERM, saved
``optimizers``  AdamW, Adam, SGD, LARS (registered adamw, adam, sgd, lars);
                .build(groups, batch_size=None) -> torch Optimizer
``guard``       Guard(config, total_steps, run); GuardWarning; measure(z) -> numbers of a stage;
                check_preconditions(method, batch_size, n_samples)
``profile``     profile(method, source, config, *, optimizer, schedule, steps, warmup) -> Profile
``logging``     MetricsLog(folder, resume_step, trackers); timing columns begin with "time/"
"""
